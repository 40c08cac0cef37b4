# Sourced by ./check and ./demo: finds a Python and makes a virtual environment.

# Prints the path of an interpreter that runs, is new enough and can make
# environments; a version ("3.12") asks for that one.
find_python() {
    local wanted=$1 version candidate candidates=()
    for version in ${wanted:-3.11 3.12 3.13}; do
        candidates+=("python$version" "$HOME"/.pyenv/versions/"$version"*/bin/python)
    done
    [[ -z $wanted ]] && candidates+=(python3 python)
    for candidate in "${candidates[@]}"; do
        # A shim on the path may exist and yet run nothing: only trying tells.
        "$candidate" - "$wanted" 2>/dev/null <<'PYTHON' && return 0
import ensurepip, sys, venv

wanted = sys.argv[1]
found = ".".join(map(str, sys.version_info[:2]))
if sys.version_info < (3, 11) or (wanted and found != wanted):
    sys.exit(1)
print(sys.executable)
PYTHON
    done
    echo "no Python ${wanted:-3.11 or newer} with venv was found on this machine" >&2
    return 1
}

# make_environment DIRECTORY VERSION EXTRA: makes or refreshes it when
# pyproject.toml has changed since; EXTRA is "test" or empty.
make_environment() {
    local directory=$1 version=$2 extra=$3 python stamp wanted
    stamp=$directory/installed${extra:+-$extra}
    wanted=$(cksum <pyproject.toml)
    if [[ -z $extra && -f $directory/installed-test ]]; then
        stamp=$directory/installed-test # the tests' environment has all of ours
    fi
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return 0
    if [[ ! -x $directory/bin/python ]]; then
        python=$(find_python "$version") || return 1
        echo "making $directory with $python"
        "$python" -m venv "$directory" || return 1
    fi
    echo "installing tepdist${extra:+[$extra]} into $directory (a few minutes at first)"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".${extra:+[$extra]}" || return 1
    echo "$wanted" >"$stamp"
}
