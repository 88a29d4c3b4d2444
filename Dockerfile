# Images for users: `docker build --target nokv-fs .`, likewise nokv-csi and nokv-operator.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --workspace --bins

FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM base AS nokv-fs
COPY --from=build /src/target/release/nokv-fs /usr/local/bin/nokv-fs
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nokv-fs"]

# The node plugin mounts, so this one runs as root; the controller sets another user in its pod.
FROM base AS nokv-csi
COPY --from=build /src/target/release/nokv-csi /usr/local/bin/nokv-csi
ENTRYPOINT ["/usr/local/bin/nokv-csi"]

FROM base AS nokv-operator
COPY --from=build /src/target/release/nokv-operator /usr/local/bin/nokv-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nokv-operator"]
