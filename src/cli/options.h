/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parsers of options and of configuration files share.  Functions that return int return 0, or a
 * negative errno with a message printed.
 */
#ifndef KARMA_CLI_OPTIONS_H
#define KARMA_CLI_OPTIONS_H

#include <sys/un.h>

#include "karma/cli.h"
#include "settings.h"

extern const struct setting_table run_settings, disk_settings, net_settings;

/* For an option of QEMU, with its dashes: advice on what Karma has instead.  NULL for any other word. */
const char *option_of_qemu(const char *word);

/* Parse the value of --disk or --net, in place. */
int parse_disk(struct disk_options *disk, char *text);
int parse_net(struct net_options *net, char *text);

/* After the last setting of one: check that they go together, and fill in defaults. */
int complete_disk(struct disk_options *disk);
int complete_net(struct net_options *net);

/* Bytes of a Unix socket's path, without an end, and whether a path is one. */
#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1)
int check_socket_path(const char *name, const char *path);

/* Parse the value of --share or --vhost-user into run options, in place, and print all of them. */
int parse_share(void *target, const char *name, char *text);
int print_shares(const void *target, const char *name, FILE *file);
int parse_vhost_user(void *target, const char *name, char *text);
int print_vhost_users(const void *target, const char *name, FILE *file);

/* A longer copy of an array, with a zeroed element at its end; NULL, with a message printed, if memory is short. */
void *append_empty(void *list, size_t *count, size_t size);
/* Append an empty one; NULL, with a message printed, if memory is short. */
struct disk_options *add_disk_options(struct run_options *options);
struct net_options *add_net_options(struct run_options *options);

/* The same, with the bound of SHARES_MAX. */
struct share_options *add_share_options(struct run_options *options);

/* Of --rw. */
int parse_writable(void *target, const char *name, char *text);
int print_writable(const void *target, const char *name, FILE *file);

/*
 * The rest of root_complete(), for --modules: a share of them and, without --initrd, an initramfs with those that it
 * takes to mount that.
 */
int modules_complete(struct run_options *options);

/*
 * --restore (restore.c): read the snapshot's configuration into options that have their defaults; what is read into
 * them after that is to replace it.  Then restore_complete(), which takes from it what was not replaced, and refuses what
 * can't be.
 */
int restore_read(struct run_options *options, const char *directory);
int restore_complete(struct run_options *options);
void restore_release(struct run_options *options);

/* Of --warm. */
int parse_warm(void *target, const char *name, char *text);
int print_warm(const void *target, const char *name, FILE *file);

/* Whether they go together. */
int root_check(const struct run_options *options);

/* Append to a list that ends with NULL, and print one that does or is NULL. */
int append_text(const char ***list, size_t *count, const char *text);
int print_texts(FILE *file, const char *name, const char *const *list);

/* Copy a text for the lifetime of the options; NULL, with a message printed, if memory is short. */
char *copy_text(struct run_options *options, const char *text);

#endif
