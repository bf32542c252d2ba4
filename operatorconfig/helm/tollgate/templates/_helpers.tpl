{{- define "tollgate.labels" -}}
app: tollgate
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tollgate.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "tollgate.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ include "tollgate.tag" . }}{{ end }}
{{- end }}

{{/* The settings, with the certificate that is mounted. */}}
{{- define "tollgate.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if .Values.tls.enabled -}}
{{- $settings = mergeOverwrite $settings (dict "tls" (dict "cert" "/etc/tollgate/tls/tls.crt" "key" "/etc/tollgate/tls/tls.key")) -}}
{{- end -}}
{{- toYaml $settings }}
{{- end }}

{{/* The seconds of a duration such as 1m30s, rounded up. */}}
{{- define "tollgate.seconds" -}}
{{- $zero := toDate "2006-01-02" "2000-01-01" -}}
{{- $then := mustDateModify . $zero -}}
{{- $whole := sub ($then | unixEpoch) ($zero | unixEpoch) -}}
{{- if hasSuffix ".000000000" (date "05.000000000" $then) }}{{ $whole }}{{ else }}{{ add $whole 1 }}{{ end }}
{{- end }}

{{/* Drain, timeout and flush of the settings, or their defaults, and some seconds to end. */}}
{{- define "tollgate.gracePeriod" -}}
{{- $shutdown := .Values.settings.shutdown | default dict -}}
{{- $reports := .Values.settings.reports | default dict -}}
{{- $drain := include "tollgate.seconds" ($shutdown.drain | default "0s") -}}
{{- $timeout := include "tollgate.seconds" ($shutdown.timeout | default "10s") -}}
{{- $flush := include "tollgate.seconds" ($reports.flush | default "5s") -}}
{{- add $drain $timeout $flush 5 }}
{{- end }}

{{/* How long a start may take: as long as sources are waited for, and half a minute. */}}
{{- define "tollgate.startSeconds" -}}
{{- $readiness := get .Values.settings "readiness" | default dict -}}
{{- add (include "tollgate.seconds" (get $readiness "source_wait" | default "30s")) 30 }}
{{- end }}
