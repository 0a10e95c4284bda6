/* A folder shown through libfuse 2.9 or 3: the least that a file system over local files can cost.
 *
 * It opens the real file once, and reads and writes by handing libfuse its descriptor, so that the data is
 * spliced and never copied by this program. Nothing is cached. Compile it with -DFUSE_USE_VERSION=29, or 31 for
 * libfuse 3, and run it as: ROOT=/folder passthrough -f [-o …] /mnt
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;

static int answer(int result)
{
    return result < 0 ? -errno : 0;
}

/* Paths are bounded: the root is checked at the start, and the kernel sends no path beyond PATH_MAX. */
static const char *real_path(char *buffer, const char *path)
{
    snprintf(buffer, 2 * PATH_MAX, "%s%s", root, path);
    return buffer;
}

#if FUSE_USE_VERSION >= 30
#define FILE_TOO , struct fuse_file_info *file
#define FLAGS_TOO , enum fuse_readdir_flags flags
#else
#define FILE_TOO
#define FLAGS_TOO
#endif

static int pass_fgetattr(const char *path, struct stat *result, struct fuse_file_info *file)
{
    (void)path;
    return answer(fstat(file->fh, result));
}

static int pass_getattr(const char *path, struct stat *result FILE_TOO)
{
    char buffer[2 * PATH_MAX];
#if FUSE_USE_VERSION >= 30
    if (file != NULL)
        return pass_fgetattr(path, result, file);
#endif
    return answer(lstat(real_path(buffer, path), result));
}

/* An open folder, and the entry after `offset` if it was read already but did not fit. */
struct folder {
    DIR *stream;
    struct dirent *waiting;
    off_t offset;
};

static struct folder *folder_of(const struct fuse_file_info *file)
{
    return (struct folder *)(uintptr_t)file->fh;
}

static int pass_opendir(const char *path, struct fuse_file_info *file)
{
    char buffer[2 * PATH_MAX];
    struct folder *folder = calloc(1, sizeof *folder);
    if (folder == NULL)
        return -ENOMEM;
    folder->stream = opendir(real_path(buffer, path));
    file->fh = (uintptr_t)folder;
    if (folder->stream != NULL)
        return 0;
    free(folder);
    return -errno;
}

/* With offsets libfuse takes as many entries as fit, and libfuse 3 their attributes: the kernel looks none up. */
static int pass_readdir(const char *path, void *names, fuse_fill_dir_t fill, off_t offset,
                        struct fuse_file_info *file FLAGS_TOO)
{
    struct folder *folder = folder_of(file);
    (void)path;
    if (offset != folder->offset) {
        seekdir(folder->stream, offset);
        folder->waiting = NULL;
        folder->offset = offset;
    }
    for (;;) {
        struct dirent *entry = folder->waiting ? folder->waiting : readdir(folder->stream);
        if (entry == NULL)
            return 0;
        struct stat known = {.st_ino = entry->d_ino, .st_mode = entry->d_type << 12};
#if FUSE_USE_VERSION >= 30
        enum fuse_fill_dir_flags plus = 0;
        if (flags & FUSE_READDIR_PLUS
            && fstatat(dirfd(folder->stream), entry->d_name, &known, AT_SYMLINK_NOFOLLOW) == 0)
            plus = FUSE_FILL_DIR_PLUS;
        folder->waiting = fill(names, entry->d_name, &known, entry->d_off, plus) ? entry : NULL;
#else
        folder->waiting = fill(names, entry->d_name, &known, entry->d_off) ? entry : NULL;
#endif
        if (folder->waiting != NULL)
            return 0;
        folder->offset = entry->d_off;
    }
}

static int pass_releasedir(const char *path, struct fuse_file_info *file)
{
    struct folder *folder = folder_of(file);
    int result = closedir(folder->stream);
    (void)path;
    free(folder);
    return answer(result);
}

static int opened(int descriptor, struct fuse_file_info *file)
{
    if (descriptor < 0)
        return -errno;
    file->fh = descriptor;
    return 0;
}

static int pass_open(const char *path, struct fuse_file_info *file)
{
    char buffer[2 * PATH_MAX];
    return opened(open(real_path(buffer, path), file->flags), file);
}

static int pass_create(const char *path, mode_t mode, struct fuse_file_info *file)
{
    char buffer[2 * PATH_MAX];
    return opened(open(real_path(buffer, path), file->flags, mode), file);
}

static struct fuse_buf in_file(const struct fuse_file_info *file, size_t size, off_t offset)
{
    return (struct fuse_buf){
        .size = size, .flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK, .fd = file->fh, .pos = offset};
}

static int pass_read_buf(const char *path, struct fuse_bufvec **result, size_t size, off_t offset,
                         struct fuse_file_info *file)
{
    struct fuse_bufvec *buffers = malloc(sizeof *buffers);
    (void)path;
    if (buffers == NULL)
        return -ENOMEM;
    *buffers = FUSE_BUFVEC_INIT(size);
    buffers->buf[0] = in_file(file, size, offset);
    *result = buffers;
    return 0;
}

static int pass_write_buf(const char *path, struct fuse_bufvec *data, off_t offset,
                          struct fuse_file_info *file)
{
    struct fuse_bufvec target = FUSE_BUFVEC_INIT(fuse_buf_size(data));
    (void)path;
    target.buf[0] = in_file(file, fuse_buf_size(data), offset);
    return fuse_buf_copy(&target, data, 0);
}

static int pass_release(const char *path, struct fuse_file_info *file)
{
    (void)path;
    return answer(close(file->fh));
}

static int pass_flush(const char *path, struct fuse_file_info *file)
{
    (void)path;
    return answer(close(dup(file->fh)));
}

static int pass_truncate(const char *path, off_t size FILE_TOO)
{
    char buffer[2 * PATH_MAX];
#if FUSE_USE_VERSION >= 30
    if (file != NULL)
        return answer(ftruncate(file->fh, size));
#endif
    return answer(truncate(real_path(buffer, path), size));
}

static int pass_unlink(const char *path)
{
    char buffer[2 * PATH_MAX];
    return answer(unlink(real_path(buffer, path)));
}

/* Told that there are no extended attributes, the kernel and ls(1) do not ask for every file. */
static int pass_getxattr(const char *path, const char *name, char *value, size_t size)
{
    (void)path;
    (void)name;
    (void)value;
    (void)size;
    return -EOPNOTSUPP;
}

#if FUSE_USE_VERSION >= 30
static struct fuse_conn_info_opts *asked;

static void *pass_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    fuse_apply_conn_info_opts(asked, connection);
    config->use_ino = 1;
    config->nullpath_ok = 1;
    // A closed file may not be released yet when it is removed; libfuse would rename it.
    config->hard_remove = 1;
    return NULL;
}
#endif

static const struct fuse_operations operations = {
    .getattr = pass_getattr,
#if FUSE_USE_VERSION >= 30
    .init = pass_init,
#else
    .fgetattr = pass_fgetattr,
    .flag_nullpath_ok = 1,
    .flag_nopath = 1,
#endif
    .opendir = pass_opendir,
    .readdir = pass_readdir,
    .releasedir = pass_releasedir,
    .open = pass_open,
    .create = pass_create,
    .read_buf = pass_read_buf,
    .write_buf = pass_write_buf,
    .release = pass_release,
    .flush = pass_flush,
    .truncate = pass_truncate,
    .unlink = pass_unlink,
    .getxattr = pass_getxattr,
};

int main(int count, char **words)
{
    root = getenv("ROOT");
    if (root == NULL || strlen(root) >= PATH_MAX) {
        fputs("passthrough: set ROOT to the folder to show\n", stderr);
        return 2;
    }
    umask(0);
#if FUSE_USE_VERSION >= 30
    struct fuse_args arguments = FUSE_ARGS_INIT(count, words);
    asked = fuse_parse_conn_info_opts(&arguments);
    return fuse_main(arguments.argc, arguments.argv, &operations, NULL);
#else
    return fuse_main(count, words, &operations, NULL);
#endif
}
