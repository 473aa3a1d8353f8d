# shellcheck shell=bash
# What the scripts share: where the project is, what is said how, and the system packages of a build.
# Sourced, never run. It does not know what is built with them.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

say() { printf '%s\n' "$*"; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# Debian packages: bindgen loads libclang when RocksDB's bindings are made; RocksDB is C++.
readonly PACKAGES_NEEDED=(g++ libclang-dev)
# Useful, not needed: with ccache the second build of RocksDB takes under two minutes instead of about seventeen.
# valgrind counts instructions of the hot path (scripts/instructions).
readonly PACKAGES_USEFUL=(ccache valgrind)

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

# A compiler counts however it came; libclang only as a library that bindgen will find.
have() {
    case "$1" in
        g++) command -v g++ >/dev/null || command -v clang++ >/dev/null ;;
        ccache | valgrind) command -v "$1" >/dev/null ;;
        libclang-dev)
            [ -n "${LIBCLANG_PATH:-}" ] && return 0
            command -v dpkg-query >/dev/null && installed libclang-dev && return 0
            compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib*/libclang*.so*' >/dev/null
            ;;
    esac
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs what is missing, or says exactly what a person must install.
install_packages() {
    local package missing=() wanted=()
    for package in "${PACKAGES_NEEDED[@]}"; do have "$package" || missing+=("$package"); done
    for package in "${PACKAGES_USEFUL[@]}"; do have "$package" || wanted+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && [ ${#wanted[@]} -eq 0 ] && return 0

    if ! command -v apt-get >/dev/null; then
        [ ${#missing[@]} -eq 0 ] && return 0
        die "this build needs: ${missing[*]} (Debian's names), and this is not a Debian machine.
Install a C++ compiler and libclang by your system's package manager (Fedora: gcc-c++ clang-devel; Arch: gcc clang;
macOS: xcode-select --install, brew install llvm and export LIBCLANG_PATH), then run this again."
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        [ ${#missing[@]} -eq 0 ] && return 0
        die "missing packages, and neither root nor sudo here to install them. As root run:
    apt-get install -y --no-install-recommends ${missing[*]} ${wanted[*]}"
    fi
    say "Installing system packages: ${missing[*]} ${wanted[*]}"
    as_root apt-get update -qq || say "  the package lists could not be renewed; trying with the ones that are here"
    if [ ${#missing[@]} -gt 0 ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            die "apt-get could not install ${missing[*]}: see above"
    fi
    if [ ${#wanted[@]} -gt 0 ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null ||
            say "  ${wanted[*]} could not be installed: going on without; builds may be slower, and checks that need it are skipped"
    fi
}

need_cargo() {
    command -v cargo >/dev/null || die "cargo was not found. Install Rust 1.90 or newer (https://rustup.rs), then run this again."
}

# One compiler command for every build, so that one cache serves all target folders and profiles.
use_ccache() {
    command -v ccache >/dev/null || return 0
    command -v g++ >/dev/null && command -v gcc >/dev/null || return 0
    export CC="${CC:-ccache gcc}" CXX="${CXX:-ccache g++}"
}

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$PWD/target}"; }
# The simulator compiles everything with another cfg: a folder of its own, or the two would evict each other.
sim_target_dir() { printf '%s' "${FLOTILLA_SIM_TARGET_DIR:-$(target_dir)/sim}"; }
