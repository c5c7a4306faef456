# Sourced by setup.sh and test.sh: system packages of Debian and Ubuntu.

missing_packages() { # those of the arguments that are not installed
    local package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
    done
}

find_root() { # sets as_root to what puts a command under root; fails where nothing does
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=(sudo)
    else
        return 1
    fi
}

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null; }

install_packages() { # after find_root
    # A broken third-party list fails the update although the packages needed may well be there.
    apt update || say "apt-get update failed; going on with the package lists at hand"
    apt install -y --no-install-recommends "$@"
}
