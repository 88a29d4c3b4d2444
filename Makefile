# NoKV for Kubernetes. `make help` lists the verbs; two of them are all that most people need: demo and test.
SHELL := /bin/bash
export NOKV_CACHE ?= $(HOME)/.cache/nokv
export CARGO_TARGET_DIR ?= $(NOKV_CACHE)/target

.DEFAULT_GOAL := help

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## The whole product on a cluster: install it, load a dataset, train on it
	@tests/e2e/demo.sh

demo-down: ## Removes all that demo made, the local cluster too
	@tests/e2e/demo-down.sh

test: ## Everything that must hold; CI runs this
	@python3 tests/run.py

build: ## Release binaries in bin/
	cargo build --release --workspace --bins
	@mkdir -p bin && for b in nokv-fs nokv-csi nokv-operator; do install -m 755 "$(CARGO_TARGET_DIR)/release/$$b" bin/; done
	@ls -l bin

lint: ## Format and clippy
	@python3 tests/run.py fmt clippy

unit: ## Tests inside the crates
	cargo test --workspace --lib --bins

mounts: ## Tests on kernel mounts
	cargo test -p nokvfs-fuse -p nokvfs-cli --test '*'

posix: ## pjdfstest, fsx and the comparison with ext4 on mounts
	cargo build -p nokvfs-cli --bins
	@tests/posix/run.sh

soak-posix: ## The same for hours
	cargo build -p nokvfs-cli --bins
	@nice tests/posix/run.sh soak

sanity: tools ## csi-sanity against the driver on real mounts
	cargo build --workspace --bins
	cargo test -p nokvfs-csi --test sanity -- --nocapture

api: tools ## The operator against a real apiserver
	cargo test -p nokvfs-operator --test api

charts: tools ## Lints, renders and compares the charts
	@charts/test.sh

e2e: tools ## Tests on the local two-node cluster
	@tests/e2e/run.sh

tools: ## Builds the Go tools of the local cluster
	@tests/deps.sh && tests/e2e/tools/build.sh

cluster-up: tools ## Starts the local cluster
	@tests/e2e/cluster/up.sh

cluster-down: ## Ends the local cluster
	@tests/e2e/cluster/down.sh

images: ## Builds the images and imports them into the local cluster
	@tests/e2e/images.sh

docs: ## Builds the documentation site
	cd docs && npm ci --no-audit --no-fund && npm run build

bench: ## Runs the filesystem bench on a mount of this build; see bench/README.md
	@bench/run.sh

deny: ## Licences and advisories of the dependencies (needs cargo-deny)
	cargo deny check bans licenses sources

.PHONY: help demo demo-down test build lint unit mounts posix soak-posix sanity api charts e2e tools cluster-up cluster-down images docs bench deny
