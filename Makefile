# `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help up down erase logs run demo watch test model fmt check bench bench-peers soak fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

up: ## start the cluster in containers: master :8000, secondaries :8001 and :8002 (the slow one); STANDBY=1 for a second master on :8010
	@docker/compose.sh up

down: ## stop those containers and remove them; logs kept with DATA_DIR=/data stay
	@docker/compose.sh down

erase: ## the same, and throw those logs away
	@docker/compose.sh erase

logs: ## follow what those containers log
	@docker/compose.sh logs

run: ## start the same cluster as plain processes, without Docker, also with STANDBY=1; Ctrl-C stops it; PORT=9000 for other ports
	@docker/run.sh

demo: ## show the main job with curl, on the running cluster or on one of its own, and check every answer; PORT=9000 for other ports
	@docker/demo.sh

watch: ## follow the log in this terminal; URL=http://localhost:8001 for another node, FROM=7 for a place
	@docker/watch.sh

test: ## run all tests
	cargo test --workspace

model: ## visit every state of the model of the takeover, farther than the tests do; takes minutes
	cargo test -p master --test model -- --include-ignored --nocapture

soak: ## takeovers under all faults for MINUTES=10, SEED=17 for those rounds again; BUG=keys-forgotten to see it find a bug
ifeq ($(BUG),)
	MINUTES=$${MINUTES:-10} SEED=$(SEED) cargo test -p master --test soak -- --nocapture
else
	@master/tests/bugs/soak.sh $(BUG)
endif

fuzz: ## hostile input for SECONDS=60: half of it over sockets to real nodes, half to what is pure; SEED=17 for the same again
	FUZZ_SECONDS=$$(($(or $(SECONDS),60) / 4)) SEED=$(SEED) cargo test -p master --test fuzz -- --nocapture --test-threads=1
	@SEED=$(SEED) common/fuzz/fuzz.sh $$(($(or $(SECONDS),60) / 2))

fmt: ## format the code
	cargo fmt --all

check: ## what CI asks of the code before the tests: format, lints, documentation
	cargo fmt --all --check
	cargo fmt --check --manifest-path common/fuzz/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench: ## measure it; ONLY="writes idle" for some sections, ROUNDS=1 for a quick look
	cargo build --release --workspace
	cargo bench -p master --bench bench -- $(ONLY)
ifeq ($(ONLY),)
	cargo bench -p common --bench log
endif

bench-peers: ## the same appends beside Redis, etcd and NATS, and an outage beside etcd's, where they are installed
	cargo build --release --workspace
	cargo bench -p master --bench bench -- peers peers-disk outage
