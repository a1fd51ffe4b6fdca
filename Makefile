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
PREFIX ?= /usr/local
VERSION := 0.1.0

PKGS := libzmq msgpack hiredis jansson libcrypto zlib
PKG_CFLAGS := $(shell pkg-config --cflags-only-I $(PKGS) openblas libmicrohttpd cmocka 2>/dev/null)

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
# Training promises equal bits: no contraction into FMA outside kernels that ask for it by name.
NUMERIC := -ffp-contract=off -fno-fast-math
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE -I. -I$(B)/gen -DMQ_VERSION='"$(VERSION)"' \
  $(OPT_$(V)) $(HARDEN) $(NUMERIC) $(WARN) $(PKG_CFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(OPT_$(V)) -Wl,-z,relro,-z,now $(LDFLAGS)

LIBS_shared := $(shell pkg-config --libs hiredis msgpack libcrypto) -lm -pthread
LIBS_broker := $(shell pkg-config --libs libzmq) $(LIBS_shared)
LIBS_worker := $(shell pkg-config --libs libzmq openblas jansson zlib) $(LIBS_shared)
LIBS_client := $(shell pkg-config --libs libzmq jansson) $(LIBS_shared)
LIBS_gateway := $(shell pkg-config --libs libmicrohttpd) $(LIBS_client)

# A module is a folder; its objects are found, never listed. main.c files are the programs.
sources = $(filter-out %/main.c,$(shell find $(1) -name '*.c' 2>/dev/null | sort))
SRC_shared := $(call sources,shared)
SRC_broker := $(call sources,broker)
SRC_worker := $(call sources,worker)
SRC_client := $(call sources,client/src)
SRC_cli := $(call sources,client/cli)
SRC_gateway := $(call sources,client/gateway)
objects = $(patsubst %.c,$(B)/%.o,$(1))

LUA := $(wildcard shared/store/lua/*.lua)
GEN := $(patsubst shared/store/lua/%.lua,$(B)/gen/lua/%.inc,$(LUA))
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
$(B)/gen/lua/%.inc: shared/store/lua/%.lua
	@mkdir -p $(@D)
	@sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/' $< > $@
$(B)/gen/web/%.inc: client/gateway/web/%
	@mkdir -p $(@D)
	@od -An -v -tx1 $< | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g' > $@

# tests/<part>/test_*.c: one program each, linked with that part.
TEST_SRC := $(wildcard tests/shared/test_*.c tests/broker/test_*.c tests/worker/test_*.c tests/client/test_*.c tests/gateway/test_*.c tests/e2e/test_*.c)
TEST_BIN := $(patsubst %.c,$(B)/%,$(TEST_SRC))
TEST_LIBS := $(shell pkg-config --libs cmocka 2>/dev/null)
$(B)/tests/shared/test_%: $(B)/tests/shared/test_%.o $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_shared)
$(B)/tests/broker/test_%: $(B)/tests/broker/test_%.o $(B)/broker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_broker)
$(B)/tests/worker/test_%: $(B)/tests/worker/test_%.o $(B)/worker.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_worker)
$(B)/tests/client/test_%: $(B)/tests/client/test_%.o $(B)/cli.a $(B)/client.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_client)
$(B)/tests/gateway/test_%: $(B)/tests/gateway/test_%.o $(B)/gateway.a $(B)/client.a $(B)/shared.a
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_gateway)

# End-to-end tests run the real programs, found next to the tests' build folder.
$(B)/tests/e2e/test_%: $(B)/tests/e2e/test_%.o $(B)/tests/support/system.o $(B)/client.a $(B)/shared.a | $(PROGRAMS)
	$(call say,LINK)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(TEST_LIBS) $(LIBS_client)

.PHONY: tests clean
tests: $(TEST_BIN)
clean: ## remove build products
	rm -rf build

-include $(shell find $(B) -name '*.d' 2>/dev/null)
