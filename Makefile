# maasq: one non-recursive Makefile. `make help` lists the targets.
# V = release (default) | debug | asan | tsan | cov   CC = gcc | clang
V ?= release
ifeq ($(origin CC),default)
CC := gcc
endif
# Quiet by default; VERBOSE=1 prints the commands.
Q := $(if $(VERBOSE),,@)
say = $(if $(VERBOSE),,@printf '  %-4s %s\n' $(1) $@)
B := build/$(V)$(if $(filter clang%,$(notdir $(CC))),-clang)
VERSION := 0.1.0

# A machine without the packages parses this file too: `make demo` and `make test` install them first
# and then run make again.
pc = $(shell pkg-config $(1) 2>/dev/null)
PKGS := libzmq msgpack hiredis jansson libcrypto zlib openblas libmicrohttpd
PKG_CFLAGS := $(call pc,--cflags-only-I $(PKGS) cmocka)
PKGS_MISSING := $(shell pkg-config --exists $(PKGS) 2>/dev/null || echo yes)

# oneDNN is optional: DNNL=0 builds without it, and so does a machine that has no dnnl.h.
DNNL ?= $(if $(shell echo 'int x;' | $(CC) -include dnnl.h -E -x c - >/dev/null 2>&1 && echo yes),1,0)
HAVE_DNNL := $(filter-out 0,$(DNNL))

WARN := -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wsign-conversion -Wformat=2 -Wundef \
  -Wvla -Wcast-qual -Wpointer-arith -Wwrite-strings -Wstrict-prototypes -Wmissing-prototypes \
  -Wold-style-definition -Wnull-dereference -Wswitch-enum -Wdouble-promotion -fno-common \
  -Wno-overlength-strings
HARDEN := -fstack-protector-strong -fPIC
OPT_release := -O2 -g -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
OPT_debug := -O0 -g3
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
OPT_cov := -O0 -g --coverage
OPT_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
# Training promises equal bits: no contraction into FMA outside kernels that ask for it by name.
NUMERIC := -ffp-contract=off -fno-fast-math -fno-math-errno
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -I. -I$(B)/gen -DMQ_VERSION='"$(VERSION)"' $(if $(HAVE_DNNL),-DMQ_DNNL) \
  $(OPT_$(V)) $(HARDEN) $(NUMERIC) $(WARN) $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(OPT_$(V)) -Wl,-z,relro,-z,now $(LDFLAGS)

LIBS_shared := $(call pc,--libs hiredis msgpack libcrypto) -lm -pthread
LIBS_broker := $(call pc,--libs libzmq) $(LIBS_shared)
LIBS_worker := $(call pc,--libs libzmq openblas jansson zlib) $(if $(HAVE_DNNL),-ldnnl -lgomp) $(LIBS_shared)
LIBS_client := $(call pc,--libs libzmq jansson) $(LIBS_shared)
LIBS_gateway := $(call pc,--libs libmicrohttpd) $(LIBS_client)

# A module is a folder; its objects are found, never listed. main.c files are the programs.
sources = $(filter-out %/main.c,$(shell find $(1) -name '*.c' 2>/dev/null | sort))
SRC_shared := $(call sources,shared)
SRC_broker := $(call sources,broker)
SRC_dnnl := $(if $(HAVE_DNNL),$(filter-out worker/dnnl/none.c,$(call sources,worker/dnnl)),worker/dnnl/none.c)
SRC_worker := $(filter-out worker/examples/% worker/dnnl/%,$(call sources,worker)) $(SRC_dnnl)
SRC_client := $(call sources,client/src)
SRC_cli := $(call sources,client/cli)
SRC_gateway := $(call sources,client/gateway)
objects = $(patsubst %.c,$(B)/%.o,$(1))

LUA := $(wildcard shared/store/lua/*.lua)
GEN := $(patsubst shared/store/lua/%.lua,$(B)/gen/lua/%.inc,$(LUA))
REDIS := $(wildcard deploy/redis/*.conf deploy/redis/*.acl)
GEN += $(patsubst deploy/redis/%,$(B)/gen/redis/%.inc,$(REDIS))
WEB := $(wildcard client/gateway/web/*)
GEN += $(patsubst client/gateway/web/%,$(B)/gen/web/%.inc,$(WEB))

PROGRAMS := $(B)/maasq-broker $(B)/maasq-worker $(B)/maasq $(B)/maasq-gateway
LIBRARIES := $(B)/libmaasq.a $(B)/libmaasq.so

.DEFAULT_GOAL := all
.PHONY: all help
all: $(PROGRAMS) $(LIBRARIES) ## build the programs and libmaasq (V=release|debug|asan|tsan, CC=gcc|clang)
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 16

$(B)/shared.a: $(call objects,$(SRC_shared))
$(B)/broker.a: $(call objects,$(SRC_broker))
$(B)/worker.a: $(call objects,$(SRC_worker))
$(B)/client.a: $(call objects,$(SRC_client))
$(B)/cli.a: $(call objects,$(SRC_cli))
$(B)/gateway.a: $(call objects,$(SRC_gateway))
$(B)/%.a:
	@rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

$(B)/maasq-broker: $(B)/broker/main.o $(B)/broker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_broker)
$(B)/maasq-worker: $(B)/worker/main.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_worker)
$(B)/maasq: $(B)/client/cli/main.o $(B)/cli.a $(B)/client.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_client)
$(B)/maasq-gateway: $(B)/client/gateway/main.o $(B)/gateway.a $(B)/client.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_gateway)
$(B)/libmaasq.a: $(call objects,$(SRC_client) $(SRC_shared))
$(B)/libmaasq.so: $(B)/client.a $(B)/shared.a client/libmaasq.map
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -shared -Wl,-soname,libmaasq.so.0 -Wl,--version-script=client/libmaasq.map \
	  -o $@ -Wl,--whole-archive $(B)/client.a -Wl,--no-whole-archive $(B)/shared.a $(LIBS_client)

# Numeric kernels are worth vectorizing; everything else stays at -O2.
$(B)/worker/%.o: EXTRA = $(if $(filter release,$(V)),-O3)

FLAGS_STAMP := $(B)/flags
$(FLAGS_STAMP): FORCE
	$(if $(PKGS_MISSING),@echo 'packages are missing: run deploy/bootstrap.sh (make demo and make test do)' >&2; exit 1)
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS_ALL)' | cmp -s - $@ || echo '$(CC) $(CFLAGS_ALL)' > $@
.PHONY: FORCE
FORCE:

$(B)/%.o: %.c $(FLAGS_STAMP) | $(GEN)
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CFLAGS_ALL) $(EXTRA) -MMD -MP -c -o $@ $<
.PRECIOUS: $(B)/%.o

# Files that are embedded become C string literals or byte lists.
as_string = sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/'
$(B)/gen/lua/%.inc: shared/store/lua/%.lua
	@mkdir -p $(@D)
	@$(as_string) $< > $@
$(B)/gen/redis/%.inc: deploy/redis/%
	@mkdir -p $(@D)
	@$(as_string) $< > $@
$(B)/gen/web/%.inc: client/gateway/web/%
	@mkdir -p $(@D)
	@od -An -v -tx1 $< | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g' > $@

# tests/<part>/test_*.c: one program each, linked with that part.
TEST_SRC := $(wildcard tests/shared/test_*.c tests/broker/test_*.c tests/worker/test_*.c tests/client/test_*.c tests/gateway/test_*.c tests/e2e/test_*.c)
TEST_BIN := $(patsubst %.c,$(B)/%,$(TEST_SRC))
TEST_LIBS := $(call pc,--libs cmocka)
$(B)/tests/shared/test_%: $(B)/tests/shared/test_%.o $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_shared)
$(B)/tests/broker/test_%: $(B)/tests/broker/test_%.o $(B)/broker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_broker)
$(B)/tests/worker/test_%: $(B)/tests/worker/test_%.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_worker)
$(B)/tests/client/test_%: $(B)/tests/client/test_%.o $(B)/cli.a $(B)/client.a $(B)/shared.a | $(B)/maasq
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_client)
$(B)/tests/gateway/test_%: $(B)/tests/gateway/test_%.o $(B)/gateway.a $(B)/client.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_gateway)

# The simulator drives the three cores in one program (tests/sim/sim.h).
SIM_OBJ := $(call objects,$(filter-out %/test_sim.c,$(wildcard tests/sim/*.c))) \
  $(call objects,$(wildcard broker/core/*.c worker/core/*.c) client/src/core.c broker/io/witness.c)
TEST_BIN += $(B)/tests/sim/test_sim
$(B)/tests/sim/test_sim: $(B)/tests/sim/test_sim.o $(SIM_OBJ) $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_shared)

# End-to-end tests run the real programs, found next to the tests' build folder.
SUPPORT := $(patsubst %.c,$(B)/%.o,$(wildcard tests/support/*.c))
$(B)/tests/e2e/test_%: $(B)/tests/e2e/test_%.o $(SUPPORT) $(B)/client.a $(B)/shared.a | $(PROGRAMS)
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_client) -lz

# Handlers of users' own kinds: the example, and wrong ones.
HANDLERS := $(patsubst %.c,$(B)/%.so,$(wildcard worker/examples/*.c tests/handlers/*.c))
$(B)/%.so: %.c worker/include/maasq_worker.h $(FLAGS_STAMP)
	@mkdir -p $(@D)
	$(call say,SO)
	$(Q)$(CC) $(CFLAGS_ALL) -Iworker/include -fvisibility=hidden $(LDFLAGS_ALL) -shared -o $@ $<
$(B)/tests/e2e/test_own_kinds: | $(HANDLERS)

# What a newcomer runs. The second make sees the packages that the first one installed.
JOBS ?= $(shell nproc)
AGAIN = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))
# tests/bench/bench_*.c of the worker: programs for `make bench` and by hand.
$(B)/tests/bench/bench_store: %: %.o $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_shared)
$(B)/tests/bench/bench_net $(B)/tests/bench/bench_infer $(B)/tests/bench/light_workers: %: %.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_worker)

# Models that are too large to ship, for benchmarks.
$(B)/tests/bench/models/generate: $(call objects,$(wildcard tests/bench/models/*.c)) $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_worker)
.PHONY: bench-models
bench-models: $(B)/tests/bench/models/generate ## write benchmark models (ResNet-50, BERT-base, ...) to build/models
	@mkdir -p build/models
	$(Q)$< build/models

# The peer of inference, optional: a package with its library, in the build folder.
PEER ?= $(firstword $(wildcard build/peer/node_modules/onnxruntime-node/bin/napi-v*/linux/x64/libonnxruntime.so.1))
$(B)/tests/bench/peer/compare: $(call objects,$(wildcard tests/bench/peer/*.c)) $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_worker) -ldl
.PHONY: peer bench-infer
peer: ## install ONNX Runtime into build/peer (npm), for bench-infer
	npm install --ignore-scripts --no-audit --no-fund --prefix build/peer onnxruntime-node@1.30.0
bench-infer: bench-models $(B)/tests/bench/peer/compare ## inference beside ONNX Runtime (make peer); SECONDS=3 ONLY=text
	$(Q)PEER='$(PEER)' SECONDS='$(or $(SECONDS),3)' ONLY='$(ONLY)' sh tests/bench/peer/run.sh $(B)

# The ONNX backend suite: tests/conformance.
$(B)/tests/conformance/conformance: $(B)/tests/conformance/conformance.o $(B)/tests/conformance/suite.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_worker)
.PHONY: conformance
conformance: $(B)/tests/conformance/conformance ## run the ONNX suite; DIR=folder of vectors, LIST=file of names, JSON=1
	$(Q)$(if $(DIR),$< $(if $(LIST),--list '$(LIST)') $(if $(JSON),--json) '$(DIR)', \
	  tests/conformance/run.sh $(B) $(if $(LIST),--list '$(LIST)') $(if $(JSON),--json))

# Fuzzing needs clang; this make calls itself with it.
.PHONY: fuzz fuzz-run
fuzz: ## fuzz the reader and runner of models; SECONDS=60 (needs clang)
	$(Q)+$(MAKE) --no-print-directory V=fuzz CC=clang fuzz-run
$(B)/tests/fuzz/fuzz_onnx: $(B)/tests/fuzz/fuzz_onnx.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $^ $(LIBS_worker)
fuzz-run: $(B)/tests/fuzz/fuzz_onnx
	@mkdir -p $(B)/corpus
	cd $(B) && nice ./tests/fuzz/fuzz_onnx -max_total_time=$(or $(SECONDS),60) -timeout=20 -rss_limit_mb=1024 \
	  -max_len=16384 -print_final_stats=1 corpus '$(CURDIR)/tests/fuzz/corpus/onnx'

.PHONY: deps demo test check tests asan tsan
deps: ## install the Debian packages that are missing (deploy/bootstrap.sh)
	@sh deploy/bootstrap.sh
demo: deps ## the main job end to end on real data: train, kill, compare, compress, serve
	$(Q)+$(AGAIN) all
	@B=$(B) sh deploy/demo.sh
test: deps ## install what is missing, build, run all tests in parallel
	$(Q)+$(AGAIN) check
check: all tests $(B)/tests/conformance/conformance ## build and run the tests; ONLY="shared/ e2e/kill" picks some by name
	@$(if $(ONLY),,tests/conformance/run.sh $(B) || { echo 'conformance: misses that are not in tests/conformance/known.txt' >&2; exit 1; })
	@JOBS=$(JOBS) CC='$(CC)' tests/run.sh $(B) $(ONLY)
tests: $(TEST_BIN)
.PHONY: chaos diff
diff: $(B)/tests/shared/test_store_diff $(B)/tests/broker/test_core_random ## Redis against its model; CALLS=1000000 (a quarter of an hour) KILLS=300 SEED=7
	$(Q)MQ_DIFF_CALLS=$(or $(CALLS),100000) MQ_DIFF_KILLS=$(or $(KILLS),100) $(if $(SEED),MQ_SEED=$(SEED)) \
	  $(B)/tests/shared/test_store_diff
	$(Q)MAASQ_REDIS_SEEDS=$(or $(LIVES),20) $(B)/tests/broker/test_core_random
chaos: all $(B)/tests/e2e/test_chaos ## kill, stop and cut off real processes; SECONDS=60 SEED=n
	$(Q)MAASQ_CHAOS_SECONDS=$(or $(SECONDS),60) MAASQ_SEED=$(SEED) $(B)/tests/e2e/test_chaos
.PHONY: takeover
takeover: all $(B)/tests/e2e/test_takeover ## how long a dead or stopped broker's shards are without one; KILLS=20
	$(Q)MAASQ_TAKEOVERS=$(or $(KILLS),20) $(B)/tests/e2e/test_takeover
asan: export ASAN_OPTIONS = detect_leaks=1
asan: ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(Q)+$(AGAIN) V=asan check
tsan: export TSAN_OPTIONS = suppressions=$(CURDIR)/tests/tsan.supp
tsan: ## the tests of the threaded parts under ThreadSanitizer
	$(Q)+$(AGAIN) V=tsan check ONLY="client/ gateway/ shared/test_blob broker/test_pin worker/test_asks e2e/test_chaos e2e/test_takeover e2e/test_hostile"

# Rules are programs (tests/check/ runs as part of the tests); these need the packages of --dev.
SOURCES_C := $(shell find shared broker worker client tests -name '*.c' 2>/dev/null | sort)
SOURCES_H := $(shell find shared broker worker client tests -name '*.h' 2>/dev/null | sort)
# gcc 12's analyzer follows calls within these; the broker's core it takes for null dereferences.
# In group.c it does not know that calloc zeroes; clang-tidy's analyzer, which does, sees that file.
ANALYZED := $(filter-out client/src/group.c,$(filter shared/% client/%,$(SOURCES_C)))
.PHONY: lint lint-format lint-rules lint-cppcheck lint-analyzer lint-tidy lint-scripts format
lint: lint-format lint-rules lint-scripts lint-cppcheck lint-analyzer lint-tidy ## all static checks
lint-format:
	$(call say,FMT)
	$(Q)clang-format --dry-run -Werror $(SOURCES_C) $(SOURCES_H)
lint-rules: all
	$(Q)CC='$(CC)' tests/run.sh $(B) check/
lint-scripts:
	$(Q)! command -v shellcheck >/dev/null || shellcheck -S warning deploy/*.sh tests/*.sh tests/check/*.sh .ci/run
lint-cppcheck: $(GEN)
	$(Q)cppcheck -q --std=c11 -I. -I$(B)/gen -D_GNU_SOURCE --enable=warning,portability --inline-suppr \
	  --suppressions-list=tests/cppcheck.supp --error-exitcode=1 -j $(JOBS) $(SOURCES_C)
lint-analyzer: $(GEN) # gcc 12 takes handing out &object->first_member for a leak; ASan watches leaks
	$(Q)printf '%s\n' $(ANALYZED) | xargs -P $(JOBS) -I{} gcc $(CFLAGS_ALL) -fanalyzer -Wno-analyzer-malloc-leak -c -o /dev/null {}
lint-tidy: $(GEN)
	$(Q)! command -v clang-tidy >/dev/null || printf '%s\n' $(SOURCES_C) | \
	  xargs -P $(JOBS) -I{} clang-tidy --quiet {} -- -std=c11 -D_GNU_SOURCE -I. -Iworker/include -I$(B)/gen -DMQ_VERSION='""' $(PKG_CFLAGS)
.PHONY: protocol
protocol: ## fill the lists of shared/wire/PROTOCOL.md from messages.def and error.def
	@mkdir -p build && sh shared/wire/protocol.sh >build/PROTOCOL.md && mv build/PROTOCOL.md shared/wire/PROTOCOL.md
format: ## lay out all C files with clang-format
	clang-format -i $(SOURCES_C) $(SOURCES_H)

.PHONY: sim
sim: $(B)/tests/sim/test_sim ## simulate: SEEDS=2000 many lives, SEED=42 TRACE=1 one with its trace
	$(Q)SEEDS='$(or $(SEEDS),$(if $(SEED),1,2000))' SEED='$(or $(SEED),1)' TRACE='$(TRACE)' $<
.PHONY: mutants
mutants: $(B)/tests/sim/test_sim ## plant bugs in the cores: the simulator must find each (ONLY="name ...")
	$(Q)tests/mutants/run.sh $(B) $(ONLY)

.PHONY: bench
bench: all $(B)/tests/bench/bench_store $(B)/tests/bench/light_workers ## ratios against named ceilings, one JSON object a line
	@B=$(B) sh tests/bench/run.sh

# Installation. DESTDIR stages, PREFIX is where it will live.
PREFIX ?= /usr/local
UNITDIR ?= $(PREFIX)/lib/systemd/system
install_to = install -d '$(DESTDIR)$(2)' && install -m $(1) $(3) '$(DESTDIR)$(2)/'
MAN := $(patsubst deploy/man/%.in,$(B)/man/%,$(wildcard deploy/man/*.in))
HEADERS_PUBLIC := $(wildcard client/include/*.h worker/include/*.h)
UNITS := $(wildcard deploy/systemd/*.service deploy/systemd/*.target)
$(B)/man/%: deploy/man/%.in deploy/man/fill.sh client/include/maasq.h $(PROGRAMS)
	@mkdir -p $(@D)
	$(Q)deploy/man/fill.sh $(B)/$(basename $(notdir $@)) $< >$@
.PHONY: install uninstall clean
install: all $(MAN) ## install below PREFIX (default /usr/local), staged below DESTDIR
	$(call install_to,755,$(PREFIX)/bin,$(PROGRAMS))
	$(call install_to,644,$(PREFIX)/lib,$(B)/libmaasq.a)
	install -m 755 $(B)/libmaasq.so '$(DESTDIR)$(PREFIX)/lib/libmaasq.so.$(VERSION)'
	ln -sf libmaasq.so.$(VERSION) '$(DESTDIR)$(PREFIX)/lib/libmaasq.so.0'
	ln -sf libmaasq.so.0 '$(DESTDIR)$(PREFIX)/lib/libmaasq.so'
	$(call install_to,644,$(PREFIX)/include,$(HEADERS_PUBLIC))
	install -d '$(DESTDIR)$(PREFIX)/lib/pkgconfig'
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' deploy/libmaasq.pc.in \
	  >'$(DESTDIR)$(PREFIX)/lib/pkgconfig/libmaasq.pc'
	ln -sf libmaasq.pc '$(DESTDIR)$(PREFIX)/lib/pkgconfig/maasq.pc'
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' deploy/maasq-worker.pc.in \
	  >'$(DESTDIR)$(PREFIX)/lib/pkgconfig/maasq-worker.pc'
	$(call install_to,644,$(PREFIX)/share/man/man1,$(filter %.1,$(MAN)))
	$(call install_to,644,$(PREFIX)/share/man/man3,$(filter %.3,$(MAN)))
	$(call install_to,644,$(PREFIX)/share/man/man8,$(filter %.8,$(MAN)))
	install -D -m 644 client/cli/completion/maasq.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/maasq'
	install -d '$(DESTDIR)$(UNITDIR)'
	for unit in $(UNITS); do \
	  sed 's|/usr/local|$(PREFIX)|g' "$$unit" >'$(DESTDIR)$(UNITDIR)'/"$${unit##*/}" || exit 1; done
	install -D -m 644 deploy/systemd/maasq.sysusers '$(DESTDIR)$(PREFIX)/lib/sysusers.d/maasq.conf'
	$(call install_to,644,$(PREFIX)/share/maasq/python,client/python/maasq.py)
	$(call install_to,755,$(PREFIX)/share/maasq,deploy/container/redis.sh deploy/secrets.sh)
	$(call install_to,644,$(PREFIX)/share/maasq/redis,$(wildcard deploy/redis/*.conf deploy/redis/*.acl))
uninstall: ## remove what install put below PREFIX
	cd '$(DESTDIR)$(PREFIX)' && rm -f $(addprefix bin/,$(notdir $(PROGRAMS))) lib/libmaasq.* \
	  lib/pkgconfig/libmaasq.pc lib/pkgconfig/maasq.pc lib/pkgconfig/maasq-worker.pc \
	  $(addprefix include/,$(notdir $(HEADERS_PUBLIC))) \
	  $(foreach page,$(notdir $(MAN)),share/man/man$(patsubst .%,%,$(suffix $(page)))/$(page)) \
	  share/bash-completion/completions/maasq lib/sysusers.d/maasq.conf && rm -rf share/maasq
	rm -f $(addprefix '$(DESTDIR)$(UNITDIR)'/,$(notdir $(UNITS)))
clean: ## remove build products
	rm -rf build

-include $(shell find $(B) -name '*.d' 2>/dev/null)
