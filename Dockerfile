# sessiond in a small image of its own. Builds with BuildKit and with the classic builder.
#
#   docker build -t sessiond .
#   docker run --rm sessiond secret
#
# docker-compose.yml beside this file runs it with Redis.

ARG RUST_IMAGE=rust:1.95-slim-bookworm
# Of the same Debian release as RUST_IMAGE: the binary needs its glibc.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Symbols stay, so that a backtrace names functions. Line tables would make it five times as large.
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=debuginfo
# The dependencies in a layer of their own: it holds until Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo '//! Stub.' > src/lib.rs \
    && printf '//! Stub.\nfn main() {}\n' > src/main.rs \
    && cargo build --release --locked --features otlp
COPY openapi.yaml ./
COPY migrations ./migrations
COPY src ./src
# COPY keeps the files' times, which are older than the stub's build: touched, or cargo would take them for built.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --features otlp

FROM ${BASE_IMAGE}
# A fixed id, and a number in USER: so a volume's owner is known, and Kubernetes can tell that it is not root.
RUN groupadd --gid 10001 sessiond \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin sessiond \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /build/target/release/sessiond /usr/local/bin/sessiond
USER 10001:10001
WORKDIR /data
# All that is ever written: the SQLite database, its reserve and the secret beside it. With Redis, nothing is.
VOLUME /data
# It refuses to start on this address until it is told that only backends can reach it (SESSIOND_ALLOW_NO_KEY=true):
# whoever runs the image knows that; the image does not.
ENV SESSIOND_LISTEN=0.0.0.0:8080 SESSIOND_STORE=sqlite:/data/sessiond.db
EXPOSE 8080
# Longer than the check's own 3 s, so that it says itself what is wrong.
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 CMD ["sessiond", "healthcheck"]
ENTRYPOINT ["sessiond"]
