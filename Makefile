# The entry points; each works from a fresh clone on Debian 12 with Rust.
.PHONY: build deps lint test demo test-kernel
build:
	cargo build --release --workspace --locked
deps:
	./scripts/install-packages
lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
