/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * karma-oci: a container runtime by its command line, whose containers are guests (karma-oci(8)).
 *
 * On the host it turns the configuration of a container (OCI runtime-spec 1.0, config.json) into that of one whose process is
 * Karma, and becomes crun, which does the rest.  In that container it is the guest's supervisor, or a client of its agent.
 */
#ifndef KARMA_OCI_H
#define KARMA_OCI_H

/* `karma oci`, or the whole command line of karma-oci.  The exit status; does not return where crun goes on. */
int command_oci(int argc, char **argv);

#endif
