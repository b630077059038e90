#!/bin/sh
# Installs the programs that tests run and pip cannot bring, from Debian's packages:
# strace (crash images), chronyd (time sources), libfaketime (clocks that are wrong) and
# prometheus (alert rules).
#
# The machine's own time must stay as it is. No service is started (policy-rc.d), none will
# be at the next boot (masked), and chrony is not installed where that would remove a time
# daemon that runs. What cannot be installed is said, and the tests that need it are skipped.

PATH=$PATH:/usr/sbin:/sbin
POLICY=/usr/sbin/policy-rc.d

missing() {
    for program in strace chronyd faketime prometheus; do
        command -v "$program" >/dev/null || echo "$program" | sed s/chronyd/chrony/
    done
}

say() {
    echo "---------------------------------------------------------------------------" >&2
    echo "system packages: $1" >&2
    echo "remedy: $2" >&2
    echo "Until then the tests that need them are skipped." >&2
    echo "---------------------------------------------------------------------------" >&2
}

install_without_services() {
    made=
    test -e "$POLICY" || { printf '#!/bin/sh\nexit 101\n' >"$POLICY" && chmod 755 "$POLICY" && made=1; }
    trap 'test -z "$made" || rm -f "$POLICY"' EXIT INT TERM
    for service in chrony prometheus; do
        case "$*" in *$service*) test ! -d /run/systemd/system || systemctl mask $service ;; esac
    done
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

wanted=$(missing | tr '\n' ' ')
test -n "$wanted" || exit 0
if ! command -v apt-get >/dev/null || test "$(id -u)" != 0; then
    say "missing: $wanted" "as root: apt-get install $wanted(or your system's packages of these names)"
    exit 0
fi
echo "installing $wanted"
apt-get update -qq >/dev/null 2>&1
removed=$(apt-get install -s --no-install-recommends $wanted 2>/dev/null \
    | sed -n 's/^Remv \([^ ]*\).*/\1/p' | tr '\n' ' ')
# Without systemd, as in a container, another time daemon is a file that nobody runs.
if test -n "$removed" && test -d /run/systemd/system; then
    say "chrony would replace $removed" "install chrony yourself, or run the tests in a container"
    wanted=$(echo "$wanted" | sed s/chrony//)
fi
log=$(install_without_services $wanted 2>&1) || echo "$log" | tail -5 >&2
left=$(missing | tr '\n' ' ')
test -z "$left" || say "could not be installed: $left" "as root: apt-get install $left"
