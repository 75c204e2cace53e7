# Run by nbdsh, with uri set: the corners of the protocol, seen by libnbd.
import errno
import nbd


def connect(structured=True):
    c = nbd.NBD()
    c.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    c.set_request_structured_replies(structured)
    c.connect_uri(uri)
    c.set_strict_mode(0)  # the server shall judge, not libnbd
    return c


def fails(want, f, *arg, **kw):
    try:
        f(*arg, **kw)
    except nbd.Error as e:
        assert e.errnum in want, "%s%r: %s, not %r" % (f.__name__, arg, e, want)
        return
    assert False, "%s%r passed" % (f.__name__, arg)


for structured in (True, False):
    c = connect(structured)
    assert c.get_structured_replies_negotiated() == structured
    size = c.get_size()

    # To the byte, across pages.
    c.pwrite(b"x" * 10000, 4091)
    c.pwrite(b"y" * 3, 4095)
    assert c.pread(10000, 4091) == b"x" * 4 + b"yyy" + b"x" * 9993
    c.pwrite(b"end", size - 3)
    assert c.pread(3, size - 3) == b"end"

    # The largest request.
    big = bytearray(b"0123456789abcdef" * (2 << 20))
    c.pwrite(big, 777)
    assert c.pread(len(big), 777) == big

    # Past the end, and far past it. The connection goes on.
    fails((errno.EINVAL,), c.pread, 2, size - 1)
    fails((errno.EINVAL,), c.pread, 1, (1 << 64) - 1)
    fails((errno.ENOSPC,), c.pwrite, b"abc", size - 2)
    fails((errno.EINVAL,), c.pwrite, b"abc", (1 << 64) - 2)
    fails((errno.EINVAL,), c.trim, 4096, size)
    fails((errno.ENOSPC,), c.zero, 4096, size)
    fails((errno.EINVAL,), c.cache, 4096, size)
    fails((errno.EINVAL,), c.pread, 4, 0, 1 << 9)
    fails((errno.EINVAL,), c.pwrite, b"abcd", 0, nbd.CMD_FLAG_DF)
    assert c.pread(3, size - 3) == b"end"

    # Zeros, trims, flushes.
    c.zero(4098, 4095, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    assert c.pread(4100, 4094) == big[4094 - 777:][:1] + bytes(4098) + big[8193 - 777:][:1]
    c.zero(8192, 0, nbd.CMD_FLAG_FAST_ZERO)
    fails((errno.ENOTSUP,), c.zero, 100, 1, nbd.CMD_FLAG_FAST_ZERO)
    c.trim(1 << 20, 1 << 20, nbd.CMD_FLAG_FUA)
    assert c.pread(1 << 20, 1 << 20) == bytes(1 << 20)
    c.flush()
    c.cache(1 << 20, 12345)

    # Many in flight, answered in any order.
    cookies = [(c.aio_pread(nbd.Buffer(512), i * 1000), i) for i in range(200)]
    while c.aio_in_flight() > 0:
        c.poll(-1)
    for cookie, _ in cookies:
        assert c.aio_command_completed(cookie)

    # Block status, and chunks.
    if structured:
        found = []
        c.trim(1 << 20, 0)
        c.pwrite(b"data" * 1024, 65536)
        c.block_status(1 << 20, 0, lambda name, off, extents, err: found.extend(extents))
        assert sum(found[::2]) == 1 << 20 and 3 in found[1::2] and 0 in found[1::2], found
        fails((errno.EINVAL,), c.block_status, 4096, size, lambda *a: 0)
        kinds = []
        got = c.pread_structured(131072, 0, lambda buf, off, kind, err: kinds.append(kind))
        assert nbd.READ_HOLE in kinds and nbd.READ_DATA in kinds, kinds
        assert got[65536:][:4096] == b"data" * 1024 and got[:65536] == bytes(65536)
        kinds.clear()
        c.pread_structured(131072, 0, lambda buf, off, kind, err: kinds.append(kind), nbd.CMD_FLAG_DF)
        assert kinds == [nbd.READ_DATA], kinds
    c.shutdown()

# One connection sees at once what another one wrote.
a, b = connect(), connect()
assert a.can_multi_conn()
a.pwrite(b"from a", 12345)
assert b.pread(6, 12345) == b"from a"
a.shutdown()
b.shutdown()

# Options that are refused do not end the negotiation.
o = nbd.NBD()
o.set_opt_mode(True)
o.connect_uri(uri)
name = o.get_export_name()
o.set_export_name("no such export")
fails((errno.ENOENT,), o.opt_info)
fails((errno.ENOENT,), o.opt_go)
o.set_export_name(name)
o.opt_info()
names = []
o.opt_list(lambda n, d: names.append(n))
assert names
o.opt_go()
assert o.get_size() == size
o.shutdown()

print("corners: all good")
