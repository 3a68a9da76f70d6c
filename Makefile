# Mayfly's entry points. `make help` lists them; README.md starts with the two that matter.

BUILD   := build
VERSION := 0.1.0
O       := $(BUILD)/obj
GEN     := $(BUILD)/gen
BIN     := $(BUILD)/bin
STATE   := $(BUILD)/state
CC      := gcc
# make V=1 shows the commands themselves.
Q       := $(if $(V),,@)

WARNINGS := -Wall -Wextra -Wshadow -Wpointer-arith -Wcast-qual -Wcast-align -Wwrite-strings \
	-Wstrict-prototypes -Wold-style-definition -Wmissing-prototypes -Wvla -Wformat=2 -Wundef \
	-Wimplicit-fallthrough -Wconversion -Wsign-conversion -Wnull-dereference $(if $(CI),-Werror)
HARDENING := -fno-strict-aliasing -fstack-protector-strong -fstack-clash-protection -fno-common
INCLUDES  := -Ivmm -I. -isystem $(GEN)
DEFINES   := -D_GNU_SOURCE -DMAYFLY_VERSION='"$(VERSION)"'
CFLAGS    := -O2 -g -D_FORTIFY_SOURCE=2
SANITIZE  := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
BASE      := -std=gnu17 $(WARNINGS) $(HARDENING) $(DEFINES) $(INCLUDES) -MMD -MP
LINK_PIE  := -pie -Wl,-z,relro,-z,now,-z,noexecstack

HOST_LIBS := -lprotobuf-c -lzstd -ljansson -larchive -lcyaml -lyaml -lmicrohttpd -lcurl -lz -lsodium -lcrypto -lsqlite3 -lpthread
VMM_LIBS  := -lprotobuf-c -lzstd -lseccomp -lpthread
AGENT_LIBS := -lprotobuf-c -lhttp_parser

# --- what there is to compile -------------------------------------------------------------------
COMMON     := $(wildcard vmm/common/*.c)
MONITOR    := $(filter-out vmm/monitor/main.c,$(wildcard vmm/monitor/*.c vmm/monitor/assist/*.c vmm/monitor/devices/*.c))
HYPERVISOR := $(wildcard vmm/hypervisor/*.c)
HOST       := $(filter-out vmm/host/mayflyd.c,$(wildcard vmm/host/*.c vmm/host/*/*.c))
CLI        := $(filter-out vmm/cli/main.c,$(wildcard vmm/cli/*.c))
IMAGES     := $(wildcard images/*.c)
SNAPSHOT   := $(wildcard snapshot/*.c)
PROTO_LIB  := $(wildcard guest-agent/proto/*.c)
AGENT      := $(filter-out guest-agent/main.c,$(wildcard guest-agent/*.c))
PROTOS     := guest-agent/proto/agent.proto vmm/monitor/control.proto $(wildcard snapshot/*.proto)
GEN_C      := $(foreach p,$(PROTOS),$(GEN)/$(basename $(notdir $(p))).pb-c.c)

LIBRARY := $(COMMON) $(MONITOR) $(HYPERVISOR) $(HOST) $(CLI) $(IMAGES) $(SNAPSHOT) $(PROTO_LIB)
objects  = $(patsubst %.c,$(1)/%.o,$(2)) $(patsubst $(GEN)/%.c,$(1)/gen/%.o,$(3))

UNIT_TESTS := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))
UNIT_HELP  := $(filter-out $(wildcard tests/unit/test_*.c),$(wildcard tests/unit/*.c))
FUZZERS    := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES    := $(patsubst tests/bench/%.c,%,$(wildcard tests/bench/bench_*.c))

MAKEFLAGS += -j$(shell nproc)

.PHONY: all help deps build assets run test test-unit test-integration bench fuzz format check-format \
	install install-assets uninstall clean distclean
.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

all: deps ## install what is missing and build the programs
	@$(MAKE) --no-print-directory build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

deps: ## install the Debian packages of scripts/debian-packages.txt
	@scripts/install-deps.sh

build: $(BIN)/mayfly $(BIN)/mayflyd $(BIN)/mayfly-vmm $(BIN)/mayfly-agent

# --- generated and compiled ---------------------------------------------------------------------
define proto_rule
$(GEN)/$(basename $(notdir $(1))).pb-c.c: $(1)
	@mkdir -p $(GEN)
	@echo '  PROTO $$@'
	$$(Q)protoc-c --c_out=$(GEN) --proto_path=$(dir $(1)) $(1)
endef
$(foreach p,$(PROTOS),$(eval $(call proto_rule,$(p))))

# Generated code answers to protoc-c, not to our warnings; _FORTIFY_SOURCE wants -O.
$(O)/gen/%.o: $(GEN)/%.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) -std=gnu17 $(HARDENING) $(INCLUDES) $(CFLAGS) -fPIE -c -o $@ $<
$(O)/%.o: %.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) $(BASE) $(CFLAGS) -fPIE -c -o $@ $<
$(BUILD)/asan/gen/%.o: $(GEN)/%.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) -std=gnu17 $(INCLUDES) $(SANITIZE) -c -o $@ $<
$(BUILD)/asan/%.o: %.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) $(BASE) $(SANITIZE) -c -o $@ $<
$(BUILD)/fuzz/gen/%.o: $(GEN)/%.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CLANG $@'
	$(Q)clang -std=gnu17 $(INCLUDES) $(SANITIZE) -fsanitize=fuzzer-no-link -c -o $@ $<
# KVM's own structures end in arrays, and are put before other members as everywhere in user space.
$(BUILD)/fuzz/%.o: %.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CLANG $@'
	$(Q)clang $(BASE) -Wno-gnu-variable-sized-type-not-at-end $(SANITIZE) \
		-fsanitize=fuzzer-no-link -c -o $@ $<

# ar's D flag: the same objects make the same archive.
$(O)/libmayfly.a: $(call objects,$(O),$(LIBRARY),$(GEN_C))
	@rm -f $@ && ar crsD $@ $^
$(BUILD)/asan/libmayfly.a: $(call objects,$(BUILD)/asan,$(LIBRARY) $(AGENT) $(UNIT_HELP),$(GEN_C))
	@rm -f $@ && ar crsD $@ $^
$(BUILD)/fuzz/libmayfly.a: $(call objects,$(BUILD)/fuzz,$(LIBRARY) $(AGENT) $(UNIT_HELP),$(GEN_C))
	@rm -f $@ && ar crsD $@ $^

$(BIN)/mayfly: $(O)/vmm/cli/main.o $(O)/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) $(LINK_PIE) -o $@ $^ $(HOST_LIBS)
$(BIN)/mayflyd: $(O)/vmm/host/mayflyd.o $(O)/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) $(LINK_PIE) -o $@ $^ $(HOST_LIBS)
# Static: the jail's root is empty, and a monitor starts faster without a dynamic linker.
$(BIN)/mayfly-vmm: $(O)/vmm/monitor/main.o $(O)/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) -static-pie -Wl,-z,relro,-z,now,-z,noexecstack -o $@ $^ $(VMM_LIBS)
# Static, and not position-independent: PID 1 of the guest pays for every relocation.
$(BIN)/mayfly-agent: $(patsubst %.c,$(O)/agent/%.o,guest-agent/main.c $(AGENT) $(PROTO_LIB)) \
		$(O)/agent/gen/agent.pb-c.o
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) -static -no-pie -Wl,--gc-sections,-z,relro,-z,now,-z,noexecstack -o $@ $^ $(AGENT_LIBS)
	@strip $@
$(O)/agent/gen/%.o: $(GEN)/%.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) -std=gnu17 $(HARDENING) $(INCLUDES) $(CFLAGS) -fno-pie -ffunction-sections -c -o $@ $<
$(O)/agent/%.o: %.c | $(GEN_C)
	@mkdir -p $(@D)
	@echo '  CC    $@'
	$(Q)$(CC) $(BASE) $(CFLAGS) -fno-pie -ffunction-sections -c -o $@ $<

# --- guest kernel and root images ---------------------------------------------------------------
assets: build ## build the guest kernel and the root images (cached by content)
	@scripts/build-assets.sh $(BUILD) $(STATE)

run: deps ## start mayflyd, deploy the example, invoke it cold, restored and warm
	@$(MAKE) --no-print-directory assets
	@python3 scripts/run-example.py $(BUILD) $(STATE)

# --- installing ----------------------------------------------------------------------------------
PREFIX     := /usr/local
SYSCONFDIR := /etc/mayfly
STATEDIR   := /var/lib/mayfly
UNITDIR    := /lib/systemd/system
INSTALL    := DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" STATEDIR="$(STATEDIR)" \
	UNITDIR="$(UNITDIR)" scripts/install.sh

install: build ## install programs, service, completion: PREFIX=/usr/local DESTDIR=
	@$(INSTALL) install $(BUILD)
install-assets: build ## guest kernel and root images into STATEDIR=/var/lib/mayfly
	@scripts/build-assets.sh $(BUILD) $(DESTDIR)$(STATEDIR)
uninstall: ## remove what `make install` installed; configuration and state stay
	@$(INSTALL) uninstall $(BUILD)

# --- tests --------------------------------------------------------------------------------------
test: deps ## build and pass every test
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory assets
	@$(MAKE) --no-print-directory test-integration

test-unit: $(UNIT_TESTS:%=$(BUILD)/asan/bin/%) $(BIN)/mayfly-agent $(BIN)/mayfly-vmm
	@scripts/run-unit-tests.sh $(UNIT_TESTS:%=$(BUILD)/asan/bin/%)
$(BUILD)/asan/bin/%: $(BUILD)/asan/tests/unit/%.o $(BUILD)/asan/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(SANITIZE) -o $@ $^ -lcmocka $(HOST_LIBS) $(VMM_LIBS) $(AGENT_LIBS)

test-integration: build $(BIN)/dispatcher_driver
	@scripts/run-integration-tests.sh $(BUILD) $(STATE)

# What Python cannot call by itself.
$(BIN)/%_driver: $(O)/tests/integration/%_driver.o $(O)/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) $(LINK_PIE) -o $@ $^ $(HOST_LIBS) $(VMM_LIBS)

bench: deps ## measure, print a table, write build/bench/*.json
	@$(MAKE) --no-print-directory assets $(BENCHES:%=$(BIN)/%)
	@scripts/run-bench.sh $(BUILD) $(STATE)
$(BIN)/bench_%: $(O)/tests/bench/bench_%.o $(O)/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)$(CC) $(CFLAGS) $(LINK_PIE) -o $@ $^ $(HOST_LIBS) $(VMM_LIBS)

SECONDS := 60
fuzz: deps ## run every fuzz target for SECONDS=60 each
	@$(MAKE) --no-print-directory $(FUZZERS:%=$(BUILD)/fuzz/bin/%)
	@scripts/run-fuzz.sh $(SECONDS) $(FUZZERS:%=$(BUILD)/fuzz/bin/%)
$(BUILD)/fuzz/bin/%: $(BUILD)/fuzz/tests/fuzz/%.o $(BUILD)/fuzz/libmayfly.a
	@mkdir -p $(@D)
	@echo '  LINK  $@'
	$(Q)clang $(SANITIZE) -fsanitize=fuzzer -o $@ $^ $(HOST_LIBS) $(VMM_LIBS) $(AGENT_LIBS)

# --- house keeping ------------------------------------------------------------------------------
SOURCES = $(shell git ls-files '*.c' '*.h')
format: ## clang-format every source file in place
	@clang-format -i $(SOURCES)
check-format: ## fail if `make format` would change anything
	@clang-format --dry-run -Werror $(SOURCES)

clean: ## remove what was compiled; the kernel, images and state stay
	rm -rf $(O) $(GEN) $(BIN) $(BUILD)/asan $(BUILD)/fuzz
distclean: ## remove everything under build/, the cached kernel too
	rm -rf $(BUILD)

-include $(shell find $(O) $(BUILD)/asan $(BUILD)/fuzz -name '*.d' 2>/dev/null)
