#!/bin/sh
# Prepares a checkout: system packages that are missing, and .venv with the project in it.
#
# Run as root on a machine with apt-get it installs the packages; elsewhere it names them and goes
# on. When nothing is missing it changes nothing and takes a few milliseconds.
set -eu

cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/pyproject.installed
PATH=$PATH:/usr/sbin:/sbin

say() {
	printf '%s\n' "$*" >&2
}

fail() {
	say "$*"
	exit 1
}

can_install() {
	[ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null
}

has_bcc() {
	for folder in /usr/lib/python3/dist-packages /usr/lib/python3*/site-packages; do
		[ -d "$folder/bcc" ] && return 0
	done
	[ -x /usr/bin/python3 ] &&
		/usr/bin/python3 -c 'import importlib.util as u; raise SystemExit(not u.find_spec("bcc"))'
}

# Debian packages of which something is missing, looked for by what they provide.
missing_packages() {
	has_bcc || echo python3-bpfcc
	command -v ip >/dev/null || echo iproute2
	command -v iptables >/dev/null || echo iptables
	command -v nft >/dev/null || echo nftables
	# The kernel tests look from outside at what is loaded, and run programs in namespaces.
	command -v bpftool >/dev/null || echo bpftool
	command -v netstat >/dev/null || echo net-tools
	command -v openssl >/dev/null || echo openssl
	command -v tmux >/dev/null || echo tmux
	command -v nsenter >/dev/null || echo util-linux
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends -y "$@" >/dev/null
}

# Package lists are fetched only if the install fails without them.
install_packages() {
	apt_install "$@" 2>/dev/null || { apt-get update -qq && apt_install "$@"; }
}

ensure_packages() {
	# Unquoted on purpose: one word is one package.
	# shellcheck disable=SC2046
	set -- $(missing_packages)
	[ $# -eq 0 ] && return
	if can_install; then
		say "Installing $*"
		install_packages "$@" && return
		# One that this distribution does not have must not keep the others out.
		for package in "$@"; do
			apt_install "$package" || say "Could not install $package: go on without it."
		done
	else
		say "Missing on this machine (names of Debian's packages): $*"
		has_bcc || say "Without python3-bpfcc the trace falls back to polling."
	fi
}

# Prints the first Python that is new enough.
find_python() {
	for name in python3 python3.14 python3.13 python3.12 python3.11; do
		if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			command -v "$name"
			return
		fi
	done
	return 1
}

ensure_venv() {
	[ -x $VENV/bin/python ] && $VENV/bin/python -c 'import pip' 2>/dev/null && return
	python=$(find_python) ||
		fail "No Python 3.11 or newer found: install python3 (3.11 or newer), then run make install again."
	if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
		can_install || fail "$python cannot make virtual environments: install python3-venv."
		say "Installing python3-venv"
		install_packages python3-venv || fail "Could not install python3-venv."
	fi
	rm -rf $VENV
	"$python" -m venv $VENV || fail "$python -m venv $VENV failed: see above."
}

ensure_project() {
	cmp -s pyproject.toml $STAMP && [ -x $VENV/bin/synsent-trace ] && return
	$VENV/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' ||
		fail "pip could not install the project into $VENV: see above."
	cp pyproject.toml $STAMP
}

ensure_packages
ensure_venv
ensure_project
