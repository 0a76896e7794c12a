/* Three things that pyfuse3 leaves out: the inode of READ and READDIRPLUS requests that carry no handle, NOFLUSH in
 * the answer to an OPEN, and many entries of a listing in one call.
 *
 * A file system that answers OPEN with ENOSYS gets its READs with fh 0, and has to know the inode.  libfuse passes it,
 * pyfuse3 passes only fi->fh on.  So this object, loaded RTLD_GLOBAL before pyfuse3, stands in front of libfuse's
 * fuse_session_new (libfuse 3.17: fuse_session_new_versioned), and gives libfuse a copy of pyfuse3's table in which
 * the two handlers put the inode where fh is 0, count that, and go on to pyfuse3's own.
 *
 * NOFLUSH (libfuse 3.11, Linux 5.16): the kernel sends no FLUSH when a descriptor of this open is closed.  The object
 * stands in front of fuse_reply_open, too, and sets it where the handle has the bit DBOXFS_NO_FLUSH.  An older libfuse
 * or kernel knows nothing of it, and FLUSH comes.
 *
 * Entries: pyfuse3 takes 2 us for each entry of a listing, since it passes through Python.  The object stands in front
 * of fuse_add_direntry_plus, too.  After dboxfs_list() has named some rows, the next call of it adds as many of them as
 * there is room for, with what all have in common from that call, and counts them in dboxfs_listed.  pyfuse3 only sees
 * one entry that takes many bytes.  Both calls come from the same thread.
 *
 * The functions have names of their own and only the symbols of libfuse's: the headers of 3.17 make a macro of one.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 32
#include <dlfcn.h>
#include <fuse3/fuse_lowlevel.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DBOXFS_NO_FLUSH ((uint64_t)1 << 62)

typedef void handler(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);
typedef int reply_open(fuse_req_t, const struct fuse_file_info *);
typedef struct fuse_session *new_session(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);
typedef struct fuse_session *new_versioned(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *, void *);

typedef size_t add_entry(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *, off_t);

/* A message of a listing: LISTED of vfs/listing.py. */
struct listed {
    int64_t next;        /* the offset behind it */
    uint64_t inode;
    int64_t size;        /* bytes */
    int64_t received;    /* seconds */
    int64_t changed_ns;
    double attr_timeout; /* NaN: that of the entry that the rows are added for */
    uint64_t name;       /* where it begins */
};

unsigned long dboxfs_sessions, dboxfs_filled; /* tables wrapped; requests that got their inode */
unsigned long dboxfs_entries, dboxfs_listed;  /* entries added one by one; rows that the last dboxfs_list() has added */
static const struct listed *rows;
static const char *names;
static size_t count;
static uint64_t above;
static struct fuse_lowlevel_ops wrapped;
static handler *own_read, *own_readdirplus;

static struct fuse_file_info *fill(struct fuse_file_info *fi, fuse_ino_t ino)
{
    if (fi->fh == 0) {
        fi->fh = ino;
        dboxfs_filled++;
    }
    return fi;
}

static void read_filled(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    own_read(req, ino, size, off, fill(fi, ino));
}

static void readdirplus_filled(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    own_readdirplus(req, ino, size, off, fill(fi, ino));
}

/* The table for libfuse; *ops* itself where it is ours already (one libfuse function calls the other) or too short. */
static const struct fuse_lowlevel_ops *wrap(const struct fuse_lowlevel_ops *ops, size_t size)
{
    size_t needed = offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof ops->readdirplus;
    if (size < needed || size > sizeof wrapped || !ops->read || !ops->readdirplus || ops->read == read_filled)
        return ops;
    memset(&wrapped, 0, sizeof wrapped);
    memcpy(&wrapped, ops, size);
    own_read = ops->read;
    own_readdirplus = ops->readdirplus;
    wrapped.read = read_filled;
    wrapped.readdirplus = readdirplus_filled;
    dboxfs_sessions++;
    return &wrapped;
}

static new_session *next_session(void) { return (new_session *)dlsym(RTLD_NEXT, "fuse_session_new"); }
static new_versioned *next_versioned(void) { return (new_versioned *)dlsym(RTLD_NEXT, "fuse_session_new_versioned"); }

struct fuse_session *hooked_session(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *)
    __asm__("fuse_session_new");
struct fuse_session *hooked_session(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size, void *data)
{
    return next_session()(args, wrap(ops, size), size, data);
}

struct fuse_session *hooked_versioned(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *, void *)
    __asm__("fuse_session_new_versioned");
struct fuse_session *hooked_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
                                      void *version, void *data)
{
    return next_versioned()(args, wrap(ops, size), size, version, data);
}

static reply_open *next_reply_open(void)
{
    static reply_open *next;
    return next ? next : (next = (reply_open *)dlsym(RTLD_NEXT, "fuse_reply_open"));
}

int hooked_reply_open(fuse_req_t, const struct fuse_file_info *) __asm__("fuse_reply_open");
int hooked_reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
    struct fuse_file_info answer = *fi;
#if FUSE_MAJOR_VERSION > 3 || FUSE_MINOR_VERSION >= 11
    if (answer.fh & DBOXFS_NO_FLUSH)
        answer.noflush = 1;
#endif
    return next_reply_open()(req, &answer);
}

static add_entry *next_add_entry(void)
{
    static add_entry *next;
    return next ? next : (next = (add_entry *)dlsym(RTLD_NEXT, "fuse_add_direntry_plus"));
}

/* The next call of fuse_add_direntry_plus is for these rows.  *bits* are set in all offsets. */
void dboxfs_list(const struct listed *these, size_t how_many, const char *their_names, uint64_t bits)
{
    rows = these;
    count = how_many;
    names = their_names;
    above = bits;
    dboxfs_listed = 0;
}

static void of_row(struct fuse_entry_param *entry, const struct listed *row)
{
    entry->ino = entry->attr.st_ino = row->inode;
    entry->attr.st_size = row->size;
    entry->attr.st_blocks = (row->size + 511) >> 9;
    entry->attr.st_mtim.tv_sec = entry->attr.st_atim.tv_sec = row->received;
    entry->attr.st_mtim.tv_nsec = entry->attr.st_atim.tv_nsec = 0;
    entry->attr.st_ctim.tv_sec = row->changed_ns / 1000000000;
    entry->attr.st_ctim.tv_nsec = row->changed_ns % 1000000000;
    if (entry->attr.st_ctim.tv_nsec < 0) {
        entry->attr.st_ctim.tv_nsec += 1000000000;
        entry->attr.st_ctim.tv_sec--;
    }
}

size_t hooked_add_entry(fuse_req_t, char *, size_t, const char *, const struct fuse_entry_param *, off_t)
    __asm__("fuse_add_direntry_plus");
size_t hooked_add_entry(fuse_req_t req, char *buf, size_t size, const char *name, const struct fuse_entry_param *common,
                        off_t off)
{
    struct fuse_entry_param entry = *common;
    size_t used = 0;
    if (!count) {
        dboxfs_entries++;
        return next_add_entry()(req, buf, size, name, common, off);
    }
    for (; dboxfs_listed < count; dboxfs_listed++) {
        const struct listed *row = &rows[dboxfs_listed];
        of_row(&entry, row);
        entry.attr_timeout = row->attr_timeout == row->attr_timeout ? row->attr_timeout : common->attr_timeout;
        size_t took = next_add_entry()(req, buf + used, size - used, names + row->name, &entry, above | row->next);
        if (took > size - used)
            break;
        used += took;
    }
    count = 0;
    return dboxfs_listed ? used : size + 1; /* more than there is room for: nothing was added */
}

/* Whether libfuse's own functions are found behind ours: every call is passed on then.  libfuse before 3.17 has no
 * versioned one, and nothing that was built with it calls it.  fuse_version() keeps libfuse among our libraries. */
int dboxfs_hook_ready(void)
{
    return next_session() && next_reply_open() && next_add_entry() && (fuse_version() < 317 || next_versioned());
}
