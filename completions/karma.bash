# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Completion of karma's command line for bash.

_karma_options='--config --print-config --restore --kernel --initrd --disk --net --root --rw --modules --cpus --memory --vsock --share --vhost-user --balloon --pmu
	--warm --cmdline --console --name --log-format --timeout --grace --reboot --on-panic --watchdog
	--die-with-parent --strict --stats --user --cgroup --no-sandbox --help'

_karma_words() {	# WORD...: those that begin like the current one
	mapfile -t COMPREPLY < <(compgen -W "$*" -- "$current")
}

_karma_files() {
	mapfile -t COMPREPLY < <(compgen -f -- "$current")
	compopt -o filenames 2>/dev/null
}

_karma_directories() {
	mapfile -t COMPREPLY < <(compgen -d -- "$current")
	compopt -o filenames 2>/dev/null
}

# A path first, or something else, and what may follow behind commas.
_karma_list() {	# WORD...
	local behind=${current%,*},
	mapfile -t COMPREPLY < <(compgen -P "$behind" -W "$*" -- "${current##*,}")
	compopt -o nospace 2>/dev/null
}

_karma_configs() {
	local names
	names=$(cd /etc/karma 2>/dev/null && printf '%s\n' *.conf | sed -n 's/\.conf$//p' | grep -vx '\*')
	_karma_files
	mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$names" -- "$current")
}

_karma_value() {	# OPTION
	case $1 in
	--config) _karma_configs ;;
	--kernel | --initrd | --cgroup) _karma_files ;;
	--restore | --root | --rw | --modules) _karma_directories ;;
	--disk)
		case $current in
		*,*) _karma_list ro direct raw pmem private overlay= from= generation= serial= iops= bps= burst= timeout= ;;
		*) _karma_files ;;
		esac
		;;
	--net)
		case $current in
		*,*) _karma_list publish= mac= mtu= queues= bps= pps= burst= ;;
		*) _karma_words user tap= fd= ;;
		esac
		;;
	--memory)
		case $current in
		*,*) _karma_list hugepages=on hugepages=off shared=on shared=off ;;
		esac
		;;
	--vsock) _karma_words on off listen= ;;
	--share)
		case $current in
		*,*) _karma_list ro rw cache=auto cache=always cache=never ;;
		*) _karma_files ;;
		esac
		;;
	--vhost-user)
		case $current in
		*,*) _karma_list type=fs type=blk type=net tag= ;;
		*) _karma_files ;;
		esac
		;;
	--balloon | --pmu | --warm) _karma_words on off ;;
	--console) _karma_words stdio stderr pty none file: unix: ;;
	--log-format) _karma_words text json ;;
	--reboot) _karma_words exit restart ;;
	--on-panic) _karma_words exit restart wait ;;
	--user) mapfile -t COMPREPLY < <(compgen -u -- "$current") ;;
	esac
}

# Of `karma run`; words behind `--` are the guest's.
_karma_run() {
	local i
	for ((i = 2; i < COMP_CWORD; i++)); do
		if [ "${COMP_WORDS[i]}" = -- ]; then return; fi
	done
	case $previous in
	--print-config | --die-with-parent | --strict | --stats | --no-sandbox | --help) ;;
	--*)
		_karma_value "$previous"
		return
		;;
	esac
	_karma_words "$_karma_options"
}

# Names of guests that run, and the options of a command for them.
_karma_guests() {	# OPTION...
	if [ "$previous" = --disk ]; then
		_karma_words vda vdb vdc vdd
	else
		_karma_words "$* --help $(karma ps --names 2>/dev/null)"
	fi
}

# Behind `--` are the guest's words.
_karma_exec() {
	local i
	for ((i = 2; i < COMP_CWORD; i++)); do
		if [ "${COMP_WORDS[i]}" = -- ]; then return; fi
	done
	case $previous in
	-u | -w | -e) ;;
	*) _karma_guests -i -t -u -w -e -- ;;
	esac
}

# A file of ours, or NAME: and a path of the guest's.
_karma_cp() {
	local names
	names=$(karma ps --names 2>/dev/null)
	_karma_files
	mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -S : -W "$names" -- "$current")
	compopt -o nospace 2>/dev/null
}

# A guest, and a new directory.
_karma_snapshot() {
	_karma_guests --stop
	if [ "$COMP_CWORD" -gt 2 ]; then _karma_directories; fi
}

_karma_fork() {
	case $previous in
	--count | --names) ;;
	--console) _karma_value --console ;;
	*) _karma_guests --count --names --console ;;
	esac
}

_karma() {
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		_karma_words run check config ps stats console log pause resume stop wait resize balloon connect exec cp snapshot fork oci --help --version
		return
	fi
	case ${COMP_WORDS[1]} in
	run) _karma_run ;;
	ps) _karma_words --json --names --help ;;
	stats) _karma_guests --json --prometheus --watch ;;
	console) _karma_guests --read-only --replay ;;
	stop) _karma_guests --force ;;
	resize) _karma_guests --disk ;;
	log | pause | resume | wait | balloon | connect) _karma_guests ;;
	exec) _karma_exec ;;
	cp) _karma_cp ;;
	snapshot) _karma_snapshot ;;
	fork) _karma_fork ;;
	config)
		if [ "$COMP_CWORD" -eq 2 ]; then _karma_words check; else _karma_configs; fi
		;;
	esac
}

complete -F _karma karma
