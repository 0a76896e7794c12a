/*
 * A read-only passthrough file system in C: what the bench compares with.  One thread, libfuse's low-level
 * interface, and every advantage that a directory of plain files can have: attributes come with readdirplus,
 * the kernel keeps entries, attributes and pages for a day, flush is never asked for twice.
 *
 *     passthrough DIRECTORY MOUNTPOINT        stays in the foreground until it is unmounted
 *
 * The tree must not change while it is mounted.  Nodes are made when the kernel first sees a name and are
 * kept until the end (forget is answered and not acted on), so a node's address can be its inode number.
 */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LONG_TIMEOUT 86400.0
#define BUCKETS (1u << 17)

struct node {
    struct node *next;   /* in its bucket */
    struct node *parent; /* NULL: the root */
    ino_t ino;
    int dir_fd; /* of a directory that was opened or looked into; -1 before */
    char name[];
};

struct listing {
    DIR *dir;
    off_t offset;           /* where the last answer ended */
    struct dirent *pending; /* read, but it didn't fit into the last answer */
};

static struct node *buckets[BUCKETS];
static struct node *root;
static char *buffer;
static size_t buffer_size;

static void *must(void *memory)
{
    if (!memory) {
        perror("passthrough");
        exit(1);
    }
    return memory;
}

static struct node *node_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? root : (struct node *)(uintptr_t)ino;
}

static int dir_fd(struct node *node)
{
    if (node->dir_fd < 0)
        node->dir_fd = openat(dir_fd(node->parent), node->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return node->dir_fd;
}

static struct node *find_or_add(struct node *parent, const char *name, ino_t ino)
{
    struct node **bucket = &buckets[(uint32_t)(ino * 2654435761u) % BUCKETS];
    for (struct node *node = *bucket; node; node = node->next)
        if (node->ino == ino)
            return node;
    struct node *node = must(calloc(1, sizeof *node + strlen(name) + 1));
    strcpy(node->name, name);
    node->parent = parent;
    node->ino = ino;
    node->dir_fd = -1;
    node->next = *bucket;
    *bucket = node;
    return node;
}

/* Fill in the entry for a name; 0 or an errno. */
static int fill(struct node *parent, const char *name, struct fuse_entry_param *entry)
{
    memset(entry, 0, sizeof *entry);
    if (fstatat(dir_fd(parent), name, &entry->attr, AT_SYMLINK_NOFOLLOW) < 0)
        return errno;
    entry->ino = (uintptr_t)find_or_add(parent, name, entry->attr.st_ino);
    entry->attr_timeout = entry->entry_timeout = LONG_TIMEOUT;
    return 0;
}

static void pt_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    int error = fill(node_of(parent), name, &entry);
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &entry);
}

static void pt_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    (void)ino;
    (void)count;
    fuse_reply_none(req);
}

static void pt_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    (void)count;
    (void)forgets;
    fuse_reply_none(req);
}

static void pt_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct node *node = node_of(ino);
    struct stat attr;
    int failed = node->parent ? fstatat(dir_fd(node->parent), node->name, &attr, AT_SYMLINK_NOFOLLOW)
                              : fstat(node->dir_fd, &attr);
    if (failed)
        fuse_reply_err(req, errno);
    else
        fuse_reply_attr(req, &attr, LONG_TIMEOUT);
}

static void pt_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int fd = openat(dir_fd(node_of(ino)), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    struct listing *listing = must(calloc(1, sizeof *listing));
    listing->dir = must(fdopendir(fd));
    fi->fh = (uintptr_t)listing;
    fuse_reply_open(req, fi);
}

static void pt_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct listing *listing = (struct listing *)(uintptr_t)fi->fh;
    closedir(listing->dir);
    free(listing);
    fuse_reply_err(req, 0);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi, int plus)
{
    struct listing *listing = (struct listing *)(uintptr_t)fi->fh;
    struct node *parent = node_of(ino);
    char *out = must(malloc(size));
    size_t used = 0;
    if (offset != listing->offset) {
        seekdir(listing->dir, offset);
        listing->offset = offset;
        listing->pending = NULL;
    }
    for (;;) {
        struct dirent *found = listing->pending ? listing->pending : readdir(listing->dir);
        listing->pending = NULL;
        if (!found)
            break;
        struct fuse_entry_param entry = {.attr = {.st_ino = found->d_ino, .st_mode = found->d_type << 12}};
        int dots = !strcmp(found->d_name, ".") || !strcmp(found->d_name, "..");
        if (plus && !dots && fill(parent, found->d_name, &entry))
            continue;
        size_t needed = plus ? fuse_add_direntry_plus(req, out + used, size - used, found->d_name, &entry,
                                                      found->d_off)
                             : fuse_add_direntry(req, out + used, size - used, found->d_name, &entry.attr,
                                                 found->d_off);
        if (needed > size - used) {
            listing->pending = found;
            break;
        }
        used += needed;
        listing->offset = found->d_off;
    }
    fuse_reply_buf(req, out, used);
    free(out);
}

static void pt_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    list(req, ino, size, offset, fi, 0);
}

static void pt_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    list(req, ino, size, offset, fi, 1);
}

static void pt_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct node *node = node_of(ino);
    int fd = openat(dir_fd(node->parent), node->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        fuse_reply_err(req, errno);
        return;
    }
    fi->fh = fd;
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void make_room(size_t size)
{
    if (size > buffer_size)
        buffer = must(realloc(buffer, buffer_size = size));
}

static void pt_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)ino;
    make_room(size);
    ssize_t got = pread(fi->fh, buffer, size, offset);
    if (got < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buffer, got);
}

static void pt_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    close(fi->fh);
    fuse_reply_err(req, 0);
}

/* A path of a node for the calls that take no descriptor of its directory. */
static const char *path_of(struct node *node)
{
    static char path[512];
    if (node->parent)
        snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dir_fd(node->parent), node->name);
    else
        snprintf(path, sizeof path, "/proc/self/fd/%d/.", node->dir_fd);
    return path;
}

/* Answer with an attribute's value, or with the names of all attributes; size 0 asks for the length. */
static void reply_attributes(fuse_req_t req, size_t size, ssize_t got)
{
    if (got < 0)
        fuse_reply_err(req, errno);
    else if (size == 0)
        fuse_reply_xattr(req, got);
    else
        fuse_reply_buf(req, buffer, got);
}

static void pt_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    make_room(size);
    reply_attributes(req, size, lgetxattr(path_of(node_of(ino)), name, buffer, size));
}

static void pt_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    make_room(size);
    reply_attributes(req, size, llistxattr(path_of(node_of(ino)), buffer, size));
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = pt_lookup,
    .forget = pt_forget,
    .forget_multi = pt_forget_multi,
    .getattr = pt_getattr,
    .opendir = pt_opendir,
    .readdir = pt_readdir,
    .readdirplus = pt_readdirplus,
    .releasedir = pt_releasedir,
    .open = pt_open,
    .read = pt_read,
    .release = pt_release,
    .getxattr = pt_getxattr,
    .listxattr = pt_listxattr,
};

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s DIRECTORY MOUNTPOINT\n", argv[0]);
        return 2;
    }
    root = must(calloc(1, sizeof *root + 1));
    root->dir_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root->dir_fd < 0) {
        perror(argv[1]);
        return 1;
    }
    char *options[] = {argv[0], "-oro,default_permissions,fsname=passthrough,subtype=bench"};
    struct fuse_args args = FUSE_ARGS_INIT(2, options);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    int status = 1;
    if (session && !fuse_set_signal_handlers(session)) {
        if (!fuse_session_mount(session, argv[2])) {
            status = fuse_session_loop(session) < 0;
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    if (session)
        fuse_session_destroy(session);
    return status;
}
