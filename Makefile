# The entry points. Each works from a fresh clone on Debian 12 with Rust; each says what it installs.
.PHONY: build demo test lint unit test-kernel image bench bench-tunnel docs deps-demo deps-test deps-kernel deps-image

# All programs, as they are released: target/release/{kg,kgctl,kilo-lab}.
build:
	cargo build --release --locked -p kg -p kgctl -p kilo-lab

# Three sites on this machine, and what happens when a leader loses its link. Needs root.
demo: deps-demo
	cargo build --profile demo --locked -p kg -p kgctl -p kilo-lab
	./scripts/as-root ./target/demo/kilo-lab demo

# Everything that can be tested without another kernel. Needs root for network namespaces.
test: deps-test lint unit

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo run --quiet --locked -p xtask -- check-dependencies

unit:
	cargo build --locked --workspace
	KUBECTL="$$(./scripts/install-kubectl)" WIREGUARD_GO="$$(./scripts/install-wireguard-go)" \
		cargo test --locked --workspace

# The same mesh on Debian's stock kernel, with its WireGuard and IPIP, in an emulated machine for each scenario, two at once.
test-kernel: deps-kernel
	cargo run --quiet --locked -p xtask -- test-kernel --jobs 2

# The container image, without a container daemon: target/image and target/kilo-image.tar. PROFILE=vm shares its build with
# test-kernel. Needs root to check that what is in it runs.
PROFILE ?= release
image: deps-image
	cargo run --quiet --locked -p xtask -- image --profile $(PROFILE)

# The reference pages of kg and kgctl, from what --help is printed from.
docs:
	cargo run --quiet --locked -p xtask -- docs

# What decoding and computing cost, up to 10,000 nodes.
bench:
	cargo bench --locked -p simulation -p kubernetes

# The embedded WireGuard device against Debian sid's wireguard-go and what else is on this machine; about eight minutes.
bench-tunnel: deps-test
	wireguard_go="$$(./scripts/install-wireguard-go)" && \
		./scripts/as-root env WIREGUARD_GO="$$wireguard_go" cargo bench --locked -p tunnel --bench throughput
	./scripts/as-root cargo test --release --locked -p tunnel --test scale

deps-demo:
	./scripts/install-packages demo
deps-test:
	./scripts/install-packages test
deps-kernel:
	./scripts/install-packages demo kernel
deps-image:
	./scripts/install-packages image
