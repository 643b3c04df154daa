# Shortcuts; each is one command you can also type.

# List the recipes.
default:
    @just --list

# Train; flags pass through: `just train --recipe f16`.
train *flags:
    cargo run --release -- train {{flags}}

# The window.
gui *flags:
    cargo run --release --bin mantissa-gui -- {{flags}}

# All tests.
test:
    cargo test --workspace

# Format check and lints, native and web.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p mantissa-core --target wasm32-unknown-unknown --no-default-features -- -D warnings

# Benchmarks.
bench *flags:
    cargo bench -p mantissa-tests {{flags}}

# Fuzz one reader for a while; `cargo fuzz list` names them. Needs cargo-fuzz.
fuzz target secs="60":
    cargo fuzz run --sanitizer none {{target}} -- -max_total_time={{secs}} -rss_limit_mb=1024

# Core for the web.
wasm:
    cargo build --release -p mantissa-core --target wasm32-unknown-unknown --no-default-features

# Documentation of all crates.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Everything CI checks.
ci:
    .ci/run
