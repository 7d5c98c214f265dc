// SPDX-License-Identifier: GPL-2.0-only
/* The values of --share and --vhost-user. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "karma/log.h"
#include "karma/util.h"
#include "options.h"

static bool has_tag(const struct guest_options *guest, const char *tag)
{
	for (size_t i = 0; i < guest->share_count; i++) {
		if (guest->shares[i].tag && strcmp(guest->shares[i].tag, tag) == 0)
			return true;
	}
	for (size_t i = 0; i < guest->vhost_user_count; i++) {
		if (guest->vhost_users[i].tag && strcmp(guest->vhost_users[i].tag, tag) == 0)
			return true;
	}
	return false;
}

static int check_tag(const struct guest_options *guest, const char *name, const char *tag)
{
	if (!tag[0] || strlen(tag) > SHARE_TAG_MAX || !is_plain_text(tag, strlen(tag)))
		return refuse("%s: `%s` is no tag: give 1 to %u bytes of text", name, tag, SHARE_TAG_MAX);
	if (has_tag(guest, tag))
		return refuse("%s: the tag %s is given twice: give each share one of its own, as DIR:TAG",
			name, tag);
	return 0;
}

/* --- DIR[:TAG|:GUESTPATH][,ro|,rw][,cache=WORD], or unix:PATH[:TAG|:GUESTPATH]. */

static int parse_rw(void *target, const char *name, char *text)
{
	bool on = true;
	int result = text ? parse_switch(name, text, &on) : 0;

	((struct share_options *)target)->read_only = !on;
	return result;
}

static const char *const cache_choices[] = { "auto", "always", "never", NULL };

#define SHARE_AT(member) .offset = offsetof(struct share_options, member)

static const struct setting share_flags[] = {
	{ "ro", NULL, SETTING_SWITCH, SHARE_AT(read_only) },
	{ "rw", NULL, SETTING_OTHER, .parse = parse_rw },
	{ "cache", "auto|always|never", SETTING_CHOICE, SHARE_AT(cache), .choices = cache_choices },
};

static const struct setting_table share_table = { "share ", share_flags, ARRAY_SIZE(share_flags) };

/* What is behind the last colon, which is cut off; NULL if there is none. */
static char *cut_behind(char *text)
{
	char *colon = strrchr(text, ':');

	if (!colon)
		return NULL;
	*colon = '\0';
	return colon + 1;
}

static int parse_place(struct share_options *share, const struct guest_options *guest,
	const char *name, char *text)
{
	char *behind;

	if (strncmp(text, "unix:", 5) == 0) {
		share->server = text + 5;
		behind = cut_behind(text + 5);
	} else {
		share->directory = text;
		behind = cut_behind(text);
	}
	if (behind && behind[0] == '/')
		share->guest_path = behind;
	else if (behind && check_tag(guest, name, behind) < 0)
		return -EINVAL;
	else
		share->tag = behind;
	if (share->server)
		return check_socket_path(name, share->server);
	return share->directory[0] ? 0 : refuse("%s: names no directory: give DIR or unix:PATH", name);
}

/* share0, share1 and so on: the number of the share. */
static int set_default_tag(struct run_options *options, const char *name, struct share_options *share)
{
	char tag[32];

	if (share->tag)
		return 0;
	snprintf(tag, sizeof(tag), "share%zu", options->guest.share_count - 1);
	if (check_tag(&options->guest, name, tag) < 0)
		return -EINVAL;
	share->tag = copy_text(options, tag);
	return share->tag ? 0 : -ENOMEM;
}

int parse_share(void *target, const char *name, char *text)
{
	struct run_options *options = target;
	struct guest_options *guest = &options->guest;
	struct share_options *share;
	char *rest = text;
	int result;

	share = add_share_options(options);
	if (!share)
		return -EINVAL;
	result = parse_place(share, guest, name, strsep(&rest, ","));
	if (result == 0 && share->server && rest)
		return refuse("%s unix:%s: `%s` is for that server to know: give it as options of its own",
			name, share->server, rest);
	if (result == 0)
		result = settings_parse_list(&share_table, share, rest);
	return result == 0 ? set_default_tag(options, name, share) : result;
}

static int print_share(FILE *file, const char *name, const struct share_options *share)
{
	cleanup_free char *text = NULL;

	if (asprintf(&text, "%s%s:%s%s%s%s", share->server ? "unix:" : "",
		    share->server ? share->server : share->directory,
		    share->guest_path ? share->guest_path : share->tag, share->read_only ? ",ro" : "",
		    share->cache ? ",cache=" : "", share->cache ? cache_choices[share->cache] : "") < 0) {
		text = NULL;
		return fail(-ENOMEM, "out of memory");
	}
	return print_value(file, name, text);
}

int print_shares(const void *target, const char *name, FILE *file)
{
	const struct guest_options *guest = &((const struct run_options *)target)->guest;
	int result = 0;

	for (size_t i = 0; i < guest->share_count && result == 0; i++)
		result = print_share(file, name, &guest->shares[i]);
	return result;
}

/* --- PATH,type=WORD[,tag=TAG]. */

static const char *const type_choices[] = { "fs", "blk", "net", NULL };

#define TYPE_NONE (-1)

#define VHOST_USER_AT(member) .offset = offsetof(struct vhost_user_options, member)

static const struct setting vhost_user_flags[] = {
	{ "type", "fs|blk|net", SETTING_CHOICE, VHOST_USER_AT(type), .choices = type_choices },
	{ "tag", "TAG", SETTING_TEXT, VHOST_USER_AT(tag) },
};

static const struct setting_table vhost_user_table = { "vhost-user ", vhost_user_flags,
	ARRAY_SIZE(vhost_user_flags) };

static int check_vhost_user(
	const struct guest_options *guest, const char *name, const struct vhost_user_options *options)
{
	if (options->type == TYPE_NONE)
		return refuse("%s %s: lacks its type: give type=fs, blk or net", name, options->path);
	if (options->type == VHOST_USER_FS && !options->tag)
		return refuse("%s %s: lacks its tag, by which the guest mounts it: give tag=TAG", name,
			options->path);
	if (options->type != VHOST_USER_FS && options->tag)
		return refuse("%s %s: tag goes with type=fs only: leave it out", name, options->path);
	if (check_socket_path(name, options->path) < 0)
		return -EINVAL;
	return options->tag ? check_tag(guest, name, options->tag) : 0;
}

int parse_vhost_user(void *target, const char *name, char *text)
{
	struct guest_options *guest = &((struct run_options *)target)->guest;
	struct vhost_user_options one = { .type = TYPE_NONE }, *list;
	char *rest = text;
	int result;

	if (guest->vhost_user_count == VHOST_USERS_MAX)
		return refuse("%s: are too many: give at most %u", name, VHOST_USERS_MAX);
	one.path = strsep(&rest, ",");
	result = settings_parse_list(&vhost_user_table, &one, rest);
	if (result == 0)
		result = check_vhost_user(guest, name, &one);
	if (result < 0)
		return result;
	list = append_empty(guest->vhost_users, &guest->vhost_user_count, sizeof(*list));
	if (!list)
		return -ENOMEM;
	guest->vhost_users = list;
	list[guest->vhost_user_count - 1] = one;
	return 0;
}

int print_vhost_users(const void *target, const char *name, FILE *file)
{
	const struct guest_options *guest = &((const struct run_options *)target)->guest;
	char text[SOCKET_PATH_MAX + SHARE_TAG_MAX + 32];
	int result = 0;

	for (size_t i = 0; i < guest->vhost_user_count && result == 0; i++) {
		const struct vhost_user_options *one = &guest->vhost_users[i];

		snprintf(text, sizeof(text), "%s,type=%s%s%s", one->path, type_choices[one->type],
			one->tag ? ",tag=" : "", one->tag ? one->tag : "");
		result = print_value(file, name, text);
	}
	return result;
}
