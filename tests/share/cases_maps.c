// SPDX-License-Identifier: GPL-2.0-only
/* Files that are mapped, and programs. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "conformance.h"

/* --- Maps. */

CASE(map_shared)
{
	int fd = make_open("f", "abcdef");
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), text[8] = "";

	if (TRY(map == MAP_FAILED ? -1 : 0) < 0)
		return;
	say("%s", map);
	map[0] = 'X';
	COUNT(pread(fd, text, 7, 0));
	say("%s", text);
	COUNT(pwrite(fd, "Y", 1, 1));
	say("%s", map);
	TRY(msync(map, 4096, MS_SYNC));
	TRY(munmap(map, 4096));
	show_text("f");
}

CASE(map_private)
{
	int fd = make_open("f", "abcdef");
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	if (TRY(map == MAP_FAILED ? -1 : 0) < 0)
		return;
	map[0] = 'X';
	show_text("f");
	IN_CHILD { say("%s", map); }
}

CASE(map_shared_by_processes)
{
	int fd = make_open("f", "abcdef");
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (TRY(map == MAP_FAILED ? -1 : 0) < 0)
		return;
	IN_CHILD {
		int other = NEED(open("f", O_RDWR));
		char *again = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);

		again[2] = 'Z';
	}
	say("%s", map);
}

CASE(map_after_close_and_unlink)
{
	int fd = make_open("f", "abcdef");
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (TRY(map == MAP_FAILED ? -1 : 0) < 0)
		return;
	close(fd);
	TRY(unlink("f"));
	map[1] = 'X';
	TRY(msync(map, 4096, MS_SYNC));
	say("%s", map);
}

CASE(map_without_right)
{
	int fd;

	make("f", "abc");
	fd = NEED(open("f", O_RDONLY));
	TRY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	TRY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
	fd = NEED(open("f", O_WRONLY));
	TRY(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
}

CASE(map_to_run)
{
	int fd = make_open("f", "\xc3");	/* ret */
	void (*function)(void) = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);

	if (TRY((void *)function == MAP_FAILED ? -1 : 0) == 0)
		function();
	say("returned");
}

CASE(truncate_while_mapped)
{
	int fd = make_open("f", "abc");
	char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	map[0] = 'X';
	TRY(ftruncate(fd, 1));
	TRY(ftruncate(fd, 3));
	say("%c%d%d", map[0], map[1], map[2]);
	IN_CHILD { map[4096] = 1; }
}

/* --- Programs. */

static void copy_program(const char *to)
{
	int from = NEED(open("/proc/self/exe", O_RDONLY)), fd = NEED(open(to, O_CREAT | O_RDWR, 0755));
	static char bytes[65536];
	ssize_t got;

	while ((got = read(from, bytes, sizeof(bytes))) > 0)
		NEED(write(fd, bytes, got));
	close(fd);
	close(from);
}

CASE(exec_of_a_program)
{
	copy_program("program");
	IN_CHILD {
		close(STDERR_FILENO);
		execl("./program", "program", NULL);
		TRY(-1);
	}
	show("program");
}

CASE(exec_errors)
{
	make("text", "no program\n");
	make("absent-interpreter", "#!/absent/interpreter\n");
	TRY(execl("./text", "text", NULL));
	NEED(chmod("text", 0755));
	NEED(chmod("absent-interpreter", 0755));
	TRY(execl("./text", "text", NULL));
	TRY(execl("./absent-interpreter", "x", NULL));
	TRY(execl(".", ".", NULL));
	TRY(execl("./absent", "absent", NULL));
}

CASE(exec_by_mode)
{
	copy_program("program");
	NEED(chmod("program", 0744));
	AS_OTHER_USER { TRY(execl("./program", "program", NULL)); }
	NEED(chmod("program", 0711));
	AS_OTHER_USER {
		TRY(open("program", O_RDONLY));
		close(STDERR_FILENO);
		execl("./program", "program", NULL);
		TRY(-1);
	}
}

/* It stops at its first instruction. */
CASE(write_to_a_running_program)
{
	pid_t pid;

	copy_program("program");
	pid = NEED(fork());
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		execl("./program", "program", NULL);
		_exit(1);
	}
	NEED(waitpid(pid, NULL, 0));
	TRY(open("program", O_RDWR));
	TRY(open("program", O_WRONLY | O_TRUNC));
	TRY(truncate("program", 0));
	TRY(unlink("program"));
	NEED(kill(pid, SIGKILL));
}

CASE(exec_of_what_is_open_to_write)
{
	int fd;

	copy_program("program");
	fd = NEED(open("program", O_RDWR));
	TRY(execl("./program", "program", NULL));
	close(fd);
}
