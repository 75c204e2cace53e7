// The part of package fabric that is C: what it needs of libfabric, and no
// more. One call does many operations. Addresses are integers, so that Go hands
// over no pointer: what they name is mapped memory outside the Go heap.
//
// Functions that return int give 0, or a count, or a negative error of
// libfabric (fi_errno(3)); fab_strerror names it.

#ifndef DMPS_FABRIC_SHIM_H
#define DMPS_FABRIC_SHIM_H

#include <stddef.h>
#include <stdint.h>

enum {
	FAB_IOVS = 4,      // local pieces of an operation, at most, and remote ones
	FAB_ADDR = 256,    // bytes of an endpoint's address, at most
	FAB_LOCALS = 64,   // registered local regions of a domain, at most
	FAB_CQ = 1024,     // operations that an endpoint may have in flight
	FAB_BELL = 64,     // bytes of a bell
};

enum { FAB_READ = 1, FAB_WRITE = 2 };

// The operation completes only when its bytes are in the target's memory
// (FI_DELIVERY_COMPLETE, fi_endpoint(3)); else when the local memory is free.
enum { FAB_DELIVERED = 1 };

// A domain: a provider at one network address, and memory registered there.
struct fab_domain;
// An endpoint with its completion queue, and the one peer that it talks to.
struct fab_ep;
// A registration.
struct fab_mr;

struct fab_caps {
	int iovs;         // local pieces of an operation, 1..FAB_IOVS
	int rmas;         // remote pieces of an operation, 1..FAB_IOVS
	int ordered;      // a write lands after those that were posted before it
	int in_order;     // and its pieces in their order
	int virt_addr;    // remote addresses are virtual ones, not offsets
	int local_mr;     // local memory must be registered too
	int tx_size;      // operations that may be in flight
	char prov[64];    // the provider, as it calls itself
};

struct fab_iov {
	uint64_t addr;
	uint64_t len; // bytes
};

// A piece of the peer's memory.
struct fab_rma {
	uint64_t addr;
	uint64_t len; // bytes
	uint64_t key;
};

// One one-sided transfer between pieces of local memory and pieces of the peer's,
// which are as long together.
struct fab_op {
	uint64_t ctx; // comes back in fab_done
	uint32_t kind;
	uint32_t flags;
	uint32_t iovs;
	uint32_t rmas;
	struct fab_iov iov[FAB_IOVS];
	struct fab_rma rma[FAB_IOVS];
};

// The end of one operation.
struct fab_done {
	uint64_t ctx;
	int32_t err; // 0, or positive as in fi_errno(3)
	int32_t prov_err;
};

const char *fab_strerror(int err);

// Once, before anything else: settings of the providers, in the environment.
void fab_init(void);
// Opens a provider at the local address node (NULL: any).
int fab_domain_open(const char *prov, const char *node, struct fab_domain **out);
// All endpoints and registrations of d must have been closed.
int fab_domain_close(struct fab_domain *d);
void fab_domain_caps(const struct fab_domain *d, struct fab_caps *out);
// Registers local memory for the operations of all endpoints of d, if the
// provider needs that, until d is closed. Not beside another call of it.
int fab_domain_local(struct fab_domain *d, uint64_t addr, uint64_t len);

// Registers memory that the peer may read, and write if so asked.
int fab_mr_open(struct fab_domain *d, uint64_t addr, uint64_t len, int writable, uint64_t want_key, struct fab_mr **out);
uint64_t fab_mr_key(const struct fab_mr *m);
int fab_mr_close(struct fab_mr *m);

int fab_ep_open(struct fab_domain *d, struct fab_ep **out);
// Writes the address of e to out, of *len bytes, and sets *len.
int fab_ep_name(struct fab_ep *e, uint64_t out, size_t *len);
// Sets the peer that the operations of e go to.
int fab_ep_peer(struct fab_ep *e, uint64_t addr, size_t len);
// Gives e, which has no descriptor, a bell: FAB_BELL bytes of zeros in memory that both peers have mapped,
// 4-byte aligned. The one that does not listen rings it when it posts, and now and
// then as long as it looks for ends; the one that listens sleeps on it. In fab_nap an end looks for spin_us, after it came or
// was rung, before its first nap. The memory must stay until e is closed.
void fab_ep_bell(struct fab_ep *e, uint64_t addr, int listens, int64_t spin_us);
// Ends e. When it returns no operation touches local memory any more, and none
// of the peer's lands here. No other call on e may be under way, or follow.
int fab_ep_close(struct fab_ep *e);

// Posts operations in order. Returns how many it could post; those after them
// are to be posted again after a fab_poll. What ops names must stay until their
// ends come from fab_poll; ops itself need not.
int fab_post(struct fab_ep *e, const struct fab_op *ops, int n);
// Makes progress and returns up to max ends. One caller at a time, of this and
// of fab_nap.
int fab_poll(struct fab_ep *e, struct fab_done *out, int max);
// The descriptor that is readable when fab_poll may find something, or -1. Only
// to be waited for after fab_may_sleep, which returns 0 when it will tell.
int fab_fd(const struct fab_ep *e);
int fab_may_sleep(struct fab_ep *e);
// Reports whether the descriptor is readable now: the peer has sent something,
// and the next fab_poll takes it. 0 without a descriptor.
int fab_stirred(const struct fab_ep *e);
// For an endpoint without one: fab_poll, and when that finds nothing naps until
// it does, for wait_us at most; the end that listens sleeps until the bell.
int fab_nap(struct fab_ep *e, struct fab_done *out, int max, int64_t wait_us);
// Makes the fab_nap that runs, or the next one, return. Any thread.
void fab_wake(struct fab_ep *e);

#endif
