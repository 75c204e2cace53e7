//go:build fabric && cgo

#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

struct local {
	uint64_t addr, len;
	struct fid_mr *mr;
};

struct fab_domain {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	int ordered;
	_Atomic int locals; // what is below it does not change any more
	struct local local[FAB_LOCALS];
};

struct fab_mr {
	struct fid_mr *mr;
};

// A bell is for providers without a descriptor to sleep on (shm). What is
// ringing is counted, so that a ring between a look and the sleep is not missed.
struct bell {
	_Atomic uint32_t rung;
	_Atomic uint32_t asleep;
};

struct fab_ep {
	struct bell *bell;
	int listens; // sleeps on the bell; else rings it
	uint32_t heard;
	int64_t spin_us; // after the bell: looks, before the first nap
	struct fab_domain *d;
	struct fid_ep *ep;
	struct fid_cq *cq;
	struct fid_av *av;
	fi_addr_t peer;
	int cq_fd;   // -1: the provider has none
	int wake_fd; // an eventfd
	_Atomic int woken;
	_Atomic int asleep;
	_Atomic int flight; // posted, without an end
	unsigned looks;     // in vain, with something in flight
};

const char *fab_strerror(int err)
{
	return fi_strerror(err < 0 ? -err : err);
}

static struct fi_info *hints_for(const char *prov, int want_order)
{
	struct fi_info *h = fi_allocinfo();
	if (!h)
		return NULL;
	h->caps = FI_RMA | FI_READ | FI_WRITE | FI_REMOTE_READ | FI_REMOTE_WRITE;
	h->ep_attr->type = FI_EP_RDM;
	h->domain_attr->threading = FI_THREAD_SAFE;
	h->domain_attr->resource_mgmt = FI_RM_ENABLED;
	h->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	// With virtual addresses shm lets the peer write to this process's memory
	// behind its back, by process_vm_writev(2), and asks for no key: closing
	// the endpoint would end nothing.
	if (strcmp(prov, "shm") != 0)
		h->domain_attr->mr_mode |= FI_MR_VIRT_ADDR;
	// The protocol in which rxm adds nothing to what tcp completes. In the other
	// one libfabric 1.17 follows a null pointer when a connection ends while a
	// read's answer is arriving: tcp reports that read twice, the second time
	// without context (mended in 1.18).
	if (strcmp(prov, "tcp;ofi_rxm") == 0 && FI_VERSION_LT(fi_version(), FI_VERSION(1, 18)))
		h->ep_attr->protocol = FI_PROTO_RXM_TCP;
	if (want_order)
		h->tx_attr->msg_order = FI_ORDER_WAW;
	h->fabric_attr->prov_name = strdup(prov);
	if (!h->fabric_attr->prov_name) {
		fi_freeinfo(h);
		return NULL;
	}
	return h;
}

static int get_info(const char *prov, const char *node, int want_order, struct fi_info **out)
{
	struct fi_info *h = hints_for(prov, want_order);
	int r;
	if (!h)
		return -FI_ENOMEM;
	r = fi_getinfo(FI_VERSION(1, 17), node, NULL, node ? FI_SOURCE : 0, h, out);
	fi_freeinfo(h);
	return r;
}

void fab_init(void)
{
	// Without it a frozen server that comes back would write the
	// answers to old reads into memory that its client has given up.
	setenv("FI_SHM_DISABLE_CMA", "1", 1);
	setenv("FI_OFI_RXM_ENABLE_PASSTHRU", "1", 1); // hints_for says why
	// A closed registration must be gone: from its cache a key goes on to open
	// memory that is somebody else's by then, and an address that was mapped anew
	// (Go's munmap is not seen) is taken for the pages that were there before.
	setenv("FI_MR_CACHE_MAX_COUNT", "0", 1);
	// An endpoint has one peer. rxm makes its queues for as many as this, which
	// is 256 otherwise: more than soft RoCE allows, and memory that is pinned.
	setenv("FI_UNIVERSE_SIZE", "4", 1);
	// Its buffers are for messages, which are not sent here: 32 MiB of pinned
	// memory an endpoint with the 16 KiB that they have otherwise.
	setenv("FI_OFI_RXM_BUFFER_SIZE", "512", 1);
	// With pollfd, which is what it may choose itself, rxm's descriptor does
	// not tell that a full socket takes more.
	setenv("FI_OFI_RXM_DEF_TCP_WAIT_OBJ", "fd", 1);
}

int fab_domain_open(const char *prov, const char *node, struct fab_domain **out)
{
	struct fab_domain *d = calloc(1, sizeof *d);
	int r;
	if (!d)
		return -FI_ENOMEM;
	r = get_info(prov, node, 1, &d->info);
	if (r == 0 && d->info->ep_attr->max_order_waw_size >= (1 << 20)) {
		d->ordered = 1;
	} else {
		if (r == 0)
			fi_freeinfo(d->info);
		d->info = NULL;
		r = get_info(prov, node, 0, &d->info);
	}
	if (r == 0)
		r = fi_fabric(d->info->fabric_attr, &d->fabric, NULL);
	if (r == 0)
		r = fi_domain(d->fabric, d->info, &d->domain, NULL);
	if (r) {
		fab_domain_close(d);
		return r;
	}
	*out = d;
	return 0;
}

static int close_fid(void *fid, int before)
{
	int r = fid ? fi_close((struct fid *)fid) : 0;
	return before ? before : r;
}

int fab_domain_close(struct fab_domain *d)
{
	int r = 0;
	for (int i = 0; i < d->locals; i++)
		r = close_fid(d->local[i].mr, r);
	r = close_fid(d->domain, r);
	r = close_fid(d->fabric, r);
	if (d->info)
		fi_freeinfo(d->info);
	free(d);
	return r;
}

void fab_domain_caps(const struct fab_domain *d, struct fab_caps *out)
{
	const struct fi_info *i = d->info;
	memset(out, 0, sizeof *out);
	out->iovs = i->tx_attr->iov_limit < FAB_IOVS ? (int)i->tx_attr->iov_limit : FAB_IOVS;
	if (out->iovs < 1)
		out->iovs = 1;
	out->rmas = i->tx_attr->rma_iov_limit < FAB_IOVS ? (int)i->tx_attr->rma_iov_limit : FAB_IOVS;
	if (out->rmas < 1)
		out->rmas = 1;
	out->ordered = d->ordered;
	// The interface promises no order within an operation. These two have it: the
	// target takes the bytes off a stream, or out of shared memory, from first to last.
	out->in_order = d->ordered && (strcmp(i->fabric_attr->prov_name, "shm") == 0 || strcmp(i->fabric_attr->prov_name, "tcp;ofi_rxm") == 0);
	out->virt_addr = (i->domain_attr->mr_mode & FI_MR_VIRT_ADDR) != 0;
	out->local_mr = (i->domain_attr->mr_mode & FI_MR_LOCAL) != 0;
	out->tx_size = i->tx_attr->size < FAB_CQ ? (int)i->tx_attr->size : FAB_CQ;
	strncpy(out->prov, i->fabric_attr->prov_name, sizeof out->prov - 1);
}

int fab_domain_local(struct fab_domain *d, uint64_t addr, uint64_t len)
{
	int n = atomic_load(&d->locals), r;
	struct local *l = &d->local[n < FAB_LOCALS ? n : 0];
	if (!(d->info->domain_attr->mr_mode & FI_MR_LOCAL))
		return 0;
	if (n == FAB_LOCALS)
		return -FI_ENOSPC;
	r = fi_mr_reg(d->domain, (void *)(uintptr_t)addr, len, FI_READ | FI_WRITE, 0, addr, 0, &l->mr, NULL);
	if (r)
		return r;
	l->addr = addr;
	l->len = len;
	atomic_store(&d->locals, n + 1);
	return 0;
}

int fab_mr_open(struct fab_domain *d, uint64_t addr, uint64_t len, int writable, uint64_t want_key, struct fab_mr **out)
{
	uint64_t access = FI_REMOTE_READ | (writable ? FI_REMOTE_WRITE : 0);
	struct fab_mr *m = calloc(1, sizeof *m);
	int r;
	if (!m)
		return -FI_ENOMEM;
	r = fi_mr_reg(d->domain, (void *)(uintptr_t)addr, len, access, 0, want_key, 0, &m->mr, NULL);
	if (r) {
		free(m);
		return r;
	}
	*out = m;
	return 0;
}

uint64_t fab_mr_key(const struct fab_mr *m)
{
	return fi_mr_key(m->mr);
}

int fab_mr_close(struct fab_mr *m)
{
	int r = fi_close(&m->mr->fid);
	free(m);
	return r;
}

static int open_cq(struct fab_ep *e)
{
	struct fi_cq_attr a = {.size = FAB_CQ, .format = FI_CQ_FORMAT_CONTEXT, .wait_obj = FI_WAIT_FD};
	int r = fi_cq_open(e->d->domain, &a, &e->cq, NULL);
	if (r == 0)
		return fi_control(&e->cq->fid, FI_GETWAIT, &e->cq_fd);
	e->cq_fd = -1;
	a.wait_obj = FI_WAIT_NONE;
	return fi_cq_open(e->d->domain, &a, &e->cq, NULL);
}

// open_ep is fi_endpoint, with the signals left as they are: the first endpoint
// of shm takes four for itself, and on any of them takes away the names of all
// endpoints, also when the process lives on.
static int open_ep(struct fab_ep *e)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	static const int taken[] = {SIGBUS, SIGSEGV, SIGTERM, SIGINT};
	enum { N = sizeof taken / sizeof taken[0] };
	struct sigaction was[N];
	int r;
	pthread_mutex_lock(&one);
	for (int i = 0; i < N; i++)
		sigaction(taken[i], NULL, &was[i]);
	r = fi_endpoint(e->d->domain, e->d->info, &e->ep, NULL);
	for (int i = 0; i < N; i++)
		sigaction(taken[i], &was[i], NULL);
	pthread_mutex_unlock(&one);
	return r;
}

int fab_ep_open(struct fab_domain *d, struct fab_ep **out)
{
	struct fi_av_attr av = {.type = FI_AV_TABLE, .count = 4};
	struct fab_ep *e = calloc(1, sizeof *e);
	int r;
	if (!e)
		return -FI_ENOMEM;
	e->d = d;
	e->cq_fd = -1;
	e->peer = FI_ADDR_UNSPEC;
	e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = e->wake_fd < 0 ? -errno : open_cq(e);
	if (r == 0)
		r = fi_av_open(d->domain, &av, &e->av, NULL);
	if (r == 0)
		r = open_ep(e);
	if (r == 0)
		r = fi_ep_bind(e->ep, &e->av->fid, 0);
	if (r == 0)
		r = fi_ep_bind(e->ep, &e->cq->fid, FI_TRANSMIT | FI_RECV);
	if (r == 0)
		r = fi_enable(e->ep);
	if (r) {
		fab_ep_close(e);
		return r;
	}
	*out = e;
	return 0;
}

int fab_ep_name(struct fab_ep *e, uint64_t out, size_t *len)
{
	return fi_getname(&e->ep->fid, (void *)(uintptr_t)out, len);
}

int fab_ep_peer(struct fab_ep *e, uint64_t addr, size_t len)
{
	char padded[FAB_ADDR + 1] = {0}; // FI_ADDR_STR ends in a zero
	int r;
	if (len > FAB_ADDR)
		return -FI_EINVAL;
	memcpy(padded, (const void *)(uintptr_t)addr, len);
	r = fi_av_insert(e->av, padded, 1, &e->peer, 0, NULL);
	if (r < 0)
		return r;
	return r == 1 ? 0 : -FI_EINVAL;
}

void fab_ep_bell(struct fab_ep *e, uint64_t addr, int listens, int64_t spin_us)
{
	e->spin_us = spin_us;
	e->bell = (struct bell *)(uintptr_t)addr;
	e->listens = listens;
}

static void ring(struct bell *b)
{
	atomic_fetch_add(&b->rung, 1);
	if (atomic_load(&b->asleep))
		syscall(SYS_futex, &b->rung, FUTEX_WAKE, 1, NULL, NULL, 0);
}

// listen sleeps until the bell is rung, for us at most.
static void listen_bell(struct fab_ep *e, int64_t us)
{
	struct timespec ts = {us / 1000000, us % 1000000 * 1000};
	atomic_store(&e->bell->asleep, 1);
	if (!atomic_load(&e->woken))
		syscall(SYS_futex, &e->bell->rung, FUTEX_WAIT, e->heard, &ts, NULL, 0);
	atomic_store(&e->bell->asleep, 0);
}

int fab_ep_close(struct fab_ep *e)
{
	int r = close_fid(e->ep, 0);
	r = close_fid(e->cq, r);
	r = close_fid(e->av, r);
	if (e->wake_fd >= 0)
		close(e->wake_fd);
	free(e);
	return r;
}

// describe finds the registration of local memory. Without one the provider
// refuses the operation.
static void *describe(const struct fab_domain *d, const struct fab_iov *v)
{
	int n = atomic_load(&d->locals);
	for (int i = 0; i < n; i++) {
		const struct local *l = &d->local[i];
		if (v->addr >= l->addr && v->addr + v->len <= l->addr + l->len)
			return fi_mr_desc(l->mr);
	}
	return NULL;
}

static ssize_t post_one(struct fab_ep *e, const struct fab_op *op)
{
	struct iovec iov[FAB_IOVS];
	void *desc[FAB_IOVS];
	struct fi_rma_iov rma[FAB_IOVS];
	struct fi_msg_rma msg = {
		.msg_iov = iov, .desc = desc, .iov_count = op->iovs, .addr = e->peer,
		.rma_iov = rma, .rma_iov_count = op->rmas, .context = (void *)(uintptr_t)op->ctx,
	};
	if (op->iovs < 1 || op->iovs > FAB_IOVS || op->rmas < 1 || op->rmas > FAB_IOVS)
		return -FI_EINVAL;
	for (uint32_t i = 0; i < op->iovs; i++) {
		iov[i].iov_base = (void *)(uintptr_t)op->iov[i].addr;
		iov[i].iov_len = op->iov[i].len;
		desc[i] = describe(e->d, &op->iov[i]);
	}
	for (uint32_t i = 0; i < op->rmas; i++)
		rma[i] = (struct fi_rma_iov){.addr = op->rma[i].addr, .len = op->rma[i].len, .key = op->rma[i].key};
	if (op->kind == FAB_READ)
		return fi_readmsg(e->ep, &msg, FI_COMPLETION);
	return fi_writemsg(e->ep, &msg, FI_COMPLETION | (op->flags & FAB_DELIVERED ? FI_DELIVERY_COMPLETE : 0));
}

int fab_post(struct fab_ep *e, const struct fab_op *ops, int n)
{
	int i = 0;
	ssize_t r = 0;
	// Before, because shm copies while it posts: the end that listens is not to
	// doze off meanwhile. And after, for what it may have looked for too early.
	if (e->bell && !e->listens)
		ring(e->bell);
	while (i < n && (r = post_one(e, &ops[i])) >= 0)
		i++;
	atomic_fetch_add(&e->flight, i);
	if (i > 0 && e->bell && !e->listens)
		ring(e->bell);
	if (i == 0 && r < 0 && r != -FI_EAGAIN)
		return (int)r; // a later one is reported by the next call
	return i;
}

void fab_wake(struct fab_ep *e)
{
	uint64_t one = 1;
	atomic_store(&e->woken, 1);
	if (e->bell && e->listens)
		ring(e->bell);
	if (atomic_load(&e->asleep)) {
		ssize_t r = write(e->wake_fd, &one, sizeof one);
		(void)r; // full: it is awake already
	}
}

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

// ends takes what the completion queue has.
static int ends(struct fab_ep *e, struct fab_done *out, int max)
{
	struct fi_cq_entry c[64];
	ssize_t n = fi_cq_read(e->cq, c, max < 64 ? max : 64);
	if (n > 0) {
		atomic_fetch_sub(&e->flight, (int)n);
		for (ssize_t i = 0; i < n; i++)
			out[i] = (struct fab_done){.ctx = (uint64_t)(uintptr_t)c[i].op_context};
		return (int)n;
	}
	if (n == -FI_EAVAIL) {
		struct fi_cq_err_entry f = {0};
		n = fi_cq_readerr(e->cq, &f, 0);
		if (n == 1) {
			atomic_fetch_sub(&e->flight, 1);
			out[0] = (struct fab_done){.ctx = (uint64_t)(uintptr_t)f.op_context, .err = f.err ? f.err : FI_EOTHER, .prov_err = f.prov_errno};
			return 1;
		}
	}
	return n == -FI_EAGAIN ? 0 : (int)n;
}

enum { RING_LOOKS = 16 }; // some microseconds

int fab_poll(struct fab_ep *e, struct fab_done *out, int max)
{
	int n = ends(e, out, max);
	// A large transfer of shm goes to and fro several times. The end that listens
	// does not sleep in between as long as this one looks.
	if (n == 0 && e->bell && !e->listens && atomic_load(&e->flight) > 0 && ++e->looks % RING_LOOKS == 0)
		ring(e->bell);
	return n;
}

int fab_stirred(const struct fab_ep *e)
{
	struct pollfd p = {.fd = e->cq_fd, .events = POLLIN};
	return e->cq_fd >= 0 && poll(&p, 1, 0) > 0;
}

int fab_fd(const struct fab_ep *e)
{
	return e->cq_fd;
}

int fab_may_sleep(struct fab_ep *e)
{
	struct fid *fids[1] = {&e->cq->fid};
	struct pollfd p = {.fd = e->cq_fd, .events = POLLIN};
	int r = fi_trywait(e->d->fabric, fids, 1);
	// tcp leaves in the socket what one look did not take, and counts on the
	// level of the descriptor; who waits for its edge must look at the level.
	if (r == 0 && poll(&p, 1, 0) != 0)
		return -FI_EAGAIN;
	return r;
}

enum {
	NAP_MIN_US = 20, // the first nap; each is twice the one before
	NAP_MAX_US = 1000,
	AWAKE_US = 10000, // after the bell: naps, then sleep
	LOOK_US = 100000, // a look at least that often, whatever the bell does
};

// nap sleeps for us at most, or until fab_wake.
static void nap(struct fab_ep *e, int64_t us)
{
	struct pollfd p = {.fd = e->wake_fd, .events = POLLIN};
	struct timespec ts = {us / 1000000, us % 1000000 * 1000};
	prctl(PR_SET_TIMERSLACK, 1000); // ns, of this thread: 50000 is more than the nap
	atomic_store(&e->asleep, 1);
	if (!atomic_load(&e->woken) && ppoll(&p, 1, &ts, NULL) > 0) {
		uint64_t v;
		ssize_t n = read(e->wake_fd, &v, sizeof v);
		(void)n;
	}
	atomic_store(&e->asleep, 0);
}

int fab_nap(struct fab_ep *e, struct fab_done *out, int max, int64_t wait_us)
{
	int64_t start = now_us(), stirred = start, length = NAP_MIN_US;
	for (;;) {
		int64_t t, left = LOOK_US;
		int r;
		if (e->bell && e->listens) {
			uint32_t rung = atomic_load(&e->bell->rung);
			if (rung != e->heard) {
				e->heard = rung;
				stirred = now_us();
				length = NAP_MIN_US;
			}
		}
		r = ends(e, out, max);
		if (r != 0)
			return r;
		if (atomic_exchange(&e->woken, 0))
			return 0;
		t = now_us();
		if (wait_us >= 0 && t - start >= wait_us)
			return 0;
		if (wait_us >= 0 && wait_us - (t - start) < left)
			left = wait_us - (t - start);
		if (e->bell && e->listens && t - stirred > AWAKE_US) {
			listen_bell(e, left);
			continue;
		}
		if (t - stirred < e->spin_us) {
			sched_yield(); // on few cores the peer may wait for this one
			continue;
		}
		if (e->bell && !e->listens && atomic_load(&e->flight) > 0)
			ring(e->bell); // it may have missed what was to be done
		nap(e, left < length ? left : length);
		length = length * 2 < NAP_MAX_US ? length * 2 : NAP_MAX_US;
	}
}
