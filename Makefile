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

crash: ## Ends processes at every failpoint
	cargo test --workspace --features nokvfs-server/failpoints --test failpoints -- --nocapture

soak-crash: ## The same at 20 visits of each point, and 10,000 power cuts
	NOKV_TEST_ROUNDS=20 cargo test --workspace --features nokvfs-server/failpoints --test failpoints -- --nocapture
	NOKV_TEST_CUTS=5000 NOKV_TEST_FLIPS=5000 cargo test -p nokvfs-meta --test powercut -- --skip short_history --nocapture
	NOKV_TEST_ACE=1 NOKV_TEST_CUTS=1000 cargo test -p nokvfs-meta --test powercut short_history -- --nocapture

soak-kill: ## 1,000 kills of real mounts and servers (NOKV_TEST_KILLS)
	NOKV_TEST_KILLS=$${NOKV_TEST_KILLS:-1000} cargo test -p nokvfs-cli --test process kills -- --nocapture

soak-model: ## 100,000 random histories of up to 200 operations (NOKV_TEST_CASES, NOKV_TEST_OPS)
	TMPDIR=/dev/shm NOKV_TEST_CASES=$${NOKV_TEST_CASES:-100000} NOKV_TEST_OPS=$${NOKV_TEST_OPS:-200} \
		cargo test -p nokvfs-meta --test model

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

.PHONY: help demo demo-down test build lint unit mounts posix soak-posix crash soak-crash soak-kill soak-model sanity api charts e2e tools cluster-up cluster-down images docs bench deny
