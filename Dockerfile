# The image holds one static binary and the certificate authorities, nothing
# else: no shell, no package manager, no user database.

# A mirror or a pinned digest can stand in for the builder.
ARG GO_IMAGE=golang:1.26

FROM ${GO_IMAGE} AS build
WORKDIR /src
# Dependencies change seldom: a layer of their own keeps them cached.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# .git stays outside the context, so the version comes from the caller
# (`make image` passes it).
ARG VERSION=dev
RUN make build VERSION="${VERSION}"

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="tollgate" \
      org.opencontainers.image.description="Policy adapter for Istio's Mixer" \
      org.opencontainers.image.source="https://github.com/tollgate-mesh/tollgate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Public roots, for what will be reached over HTTPS; private ones are mounted.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /src/bin/tollgate /tollgate
# By number: scratch has no /etc/passwd, and runAsNonRoot can only judge numbers.
USER 65532:65532
EXPOSE 44225
# No HEALTHCHECK: it is not part of the OCI format and Kubernetes ignores it.
# An exec probe runs `/tollgate healthcheck`.
ENTRYPOINT ["/tollgate"]
# As is, it listens on the container's loopback only, which suits a sidecar of
# Mixer. To be reached from other pods the operator consents to plaintext by
# name, `serve --listen 0.0.0.0:44225 --allow-plaintext`, or in a settings file.
# The image does not give that consent for them.
CMD ["serve"]
