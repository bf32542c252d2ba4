# The image holds one static binary, what it is made of, and the certificate authorities, nothing
# else: no shell, no package manager, no user database. One commit makes one
# image, digest for digest, if the builder is the same: so it is named to the patch.

# A mirror or a pinned digest can stand in for the builder.
ARG GO_IMAGE=golang:1.26.8-bookworm

FROM ${GO_IMAGE} AS build
WORKDIR /src
# Dependencies change seldom: a layer of their own keeps them cached.
COPY go.mod go.sum ./
COPY tools/sbom/go.mod tools/sbom/go.sum tools/sbom/
RUN go mod download && go -C tools/sbom mod download
COPY . .
# .git stays outside the context, so the version comes from the caller
# (`make image` passes it).
ARG VERSION=dev
ARG SOURCE_DATE_EPOCH=0
RUN make sbom VERSION="${VERSION}"

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tollgate" \
      org.opencontainers.image.description="Policy and telemetry adapter for Istio's Mixer" \
      org.opencontainers.image.source="https://github.com/tollgate-mesh/tollgate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Public roots, for what will be reached over HTTPS; private ones are mounted.
COPY --from=build --chmod=0444 /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chmod=0444 /src/LICENSE /LICENSE
COPY --from=build --chmod=0444 /src/bin/tollgate.cdx.json /sbom.cdx.json
COPY --from=build --chmod=0555 /src/bin/tollgate /tollgate
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
