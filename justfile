# Short names for the usual commands. Everything works without just, too: scripts/ and CONTRIBUTING.md have the commands.

# Lists the recipes
[private]
default:
    @just --list

# Runs the service on 127.0.0.1:8080, with a SQLite file here: just run --log-level debug
run *flags:
    cargo run --locked -- {{ flags }}

# Checks everything, as CI does; or runs only the Rust tests that match: just test --test api keys::
test *filter:
    {{ if filter == "" { "scripts/test" } else { "cargo nextest run --locked --all-features " + filter } }}

# Formats the code
fmt:
    cargo fmt
    cargo fmt --manifest-path examples/axum/Cargo.toml

# Checks formatting, lints, docs and licenses
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features
    cargo deny --log-level error check bans licenses sources

# Writes openapi.yaml from the handlers, and shows what changed
openapi:
    UPDATE_OPENAPI=1 cargo test --locked --all-features --test openapi
    git diff --stat openapi.yaml

# Runs the race rounds: just races 20000, and with a seed: just races 20000 7
races rounds="1000" seed="":
    SESSIOND_RACE_ROUNDS={{ rounds }} {{ if seed == "" { "" } else { "SESSIOND_RACE_SEED=" + seed } }} cargo nextest run --locked --all-features --test races rounds::

# Measures the service beside its peers: just bench --help
bench *options:
    scripts/bench {{ options }}

# Checks the dependencies for known vulnerabilities; needs the network
advisories:
    scripts/advisories
