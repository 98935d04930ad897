#!/bin/sh
# A throwaway PostgreSQL cluster for tests and the demo.
#
#   private_postgres.sh start DIR [--no-fsync]    make the cluster in DIR, if it is not there yet, and start it
#   private_postgres.sh stop DIR [--immediate]    stop it; fine if it does not run (any more)
#   private_postgres.sh database DIR NAME         make a database in it
#   private_postgres.sh available                 exit 0 if PostgreSQL is installed, else say so and exit 1
#
# Its socket is DIR itself, it listens on nothing else, everybody on this machine who may enter DIR may use it as user
# "postgres": connect with `psql "host=DIR user=postgres dbname=postgres"`. DIR/log has the server's messages.
# The machine's own clusters are never touched. Run by root it becomes "postgres" (or "nobody"), as the server refuses
# to run as root. Prints nothing but errors. stop leaves DIR itself to the caller.
set -u

fail() {
    echo "private_postgres.sh: $*" >&2
    exit 1
}

# The newest version that is installed, or CTACCT_POSTGRES_BIN.
bin=${CTACCT_POSTGRES_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -n | tail -n 1)}

available() {
    [ -x "$bin/initdb" ] || fail "PostgreSQL is not installed (package postgresql)"
}

# Runs a command as the user that the server runs as. In DIR, since the caller's folder may be closed to that user.
as_owner() {
    if [ "$(id -u)" -ne 0 ]; then
        (cd "$dir" && "$@")
        return
    fi
    if id postgres >/dev/null 2>&1; then owner=postgres; else owner=nobody; fi
    (cd "$dir" && setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups -- "$@")
}

# Processes of this cluster, including those that have outlived their postmaster: all of them run in its data folder. (A
# killed one that is not yet reaped has no folder any more; pg_ctl would take it for alive.)
processes() {
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/cwd" 2>/dev/null)" = "$dir/data" ] && echo "${process#/proc/}"
    done
}

running() {
    postmaster=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) && processes | grep -qx "$postmaster"
}

# Waits up to 10 seconds.
all_ended() {
    for _ in $(seq 100); do
        [ -z "$(processes)" ] && return
        sleep 0.1
    done
    return 1
}

start() {
    available
    mkdir -p "$dir" || fail "cannot make $dir"
    dir=$(cd "$dir" && pwd -P) || fail "cannot enter $dir"
    # sockaddr_un has room for 107 bytes.
    socket="$dir/.s.PGSQL.5432"
    [ "${#socket}" -le 107 ] || fail "the path $dir is too long for a Unix socket (at most 92 bytes)"
    if [ "$(id -u)" -eq 0 ]; then
        if id postgres >/dev/null 2>&1; then owner=postgres; else owner=nobody; fi
        chown "$owner" "$dir" || fail "cannot give $dir to $owner"
    fi
    if [ ! -f "$dir/data/PG_VERSION" ]; then
        # An interrupted initdb leaves a folder that the next one refuses.
        rm -rf "$dir/data"
        output=$(as_owner "$bin/initdb" --pgdata="$dir/data" --username=postgres --auth=trust \
            --encoding=UTF8 --locale=C.UTF-8 --no-sync 2>&1) || fail "initdb: $output"
        # shellcheck disable=SC2016 # The inner shell's own argument.
        {
            echo "listen_addresses = ''"
            echo "port = 5432"
            echo "unix_socket_directories = '$dir'"
            echo "unix_socket_permissions = 0777"
            # Enough for a bulk load to find its pace; little enough for any machine.
            echo "shared_buffers = 128MB"
            echo "max_wal_size = 2GB"
            echo "timezone = 'UTC'"
        } | as_owner sh -c 'cat >> "$1"' sh "$dir/data/postgresql.auto.conf" ||
            fail "cannot write the configuration"
    fi
    running && return
    options=
    [ "${option:-}" = --no-fsync ] && options="-c fsync=off -c full_page_writes=off"
    # Children of a killed server see that it is gone and end; a new one must not write beside them. With none left, what
    # it has left behind names nobody.
    all_ended || fail "processes of an earlier server in $dir do not end"
    rm -f "$dir/data/postmaster.pid" "$socket" "$socket.lock"
    as_owner "$bin/pg_ctl" --pgdata="$dir/data" --log="$dir/log" --wait --timeout=60 -o "$options" \
        start >/dev/null 2>&1 </dev/null || {
        tail -n 5 "$dir/log" >&2
        fail "the server has not started"
    }
}

stop() {
    [ -f "$dir/data/PG_VERSION" ] || return 0
    dir=$(cd "$dir" && pwd -P) || return 0
    mode=fast
    [ "${option:-}" = --immediate ] && mode=immediate
    for how in "$mode" immediate; do
        running || break
        as_owner "$bin/pg_ctl" --pgdata="$dir/data" --wait --timeout=30 --mode="$how" stop \
            >/dev/null 2>&1
    done
    [ -z "$(processes)" ] && return 0
    # shellcheck disable=SC2046 # One argument each.
    kill -9 $(processes) 2>/dev/null
    all_ended || fail "the server in $dir does not stop"
}

database() {
    output=$("$bin/createdb" --host="$dir" --username=postgres -- "$option" 2>&1) || fail "$output"
}

command=${1:-}
dir=${2:-}
option=${3:-}
case "$command:$dir:$option" in
start:?*: | start:?*:--no-fsync) start ;;
stop:?*: | stop:?*:--immediate) stop ;;
available::) available ;;
database:?*:?*) database ;;
*)
    echo "usage: private_postgres.sh start DIR [--no-fsync] | stop DIR [--immediate] | database DIR NAME |" \
        "available" >&2
    exit 2
    ;;
esac
