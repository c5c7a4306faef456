# Functions for system packages of Debian and Ubuntu; setup.sh and test.sh source this file.

missing_packages() { # print the packages among the arguments that are not installed
    local package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
    done
}

find_root() { # set as_root to the words that run a command as root; fail if there is no way
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=(sudo)
    else
        return 1
    fi
}

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null; }

install_packages() { # install the packages; needs find_root first
    # A broken list of a third party makes the update fail, although the needed packages may be available.
    apt update || say "apt-get update failed; going on with the package lists at hand"
    apt install -y --no-install-recommends "$@"
}
