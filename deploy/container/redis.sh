#!/bin/sh
# Starts one of the two redis-servers from the templates of share/maasq/redis: fills in paths and the
# hashes of the users' passwords, then becomes the server. Used by the systemd units and the containers.
#
#   redis.sh state|blobs [more redis-server options, such as --port 6379 --bind "0.0.0.0"]
#
# MAASQ_SHARE      templates                       (/usr/local/share/maasq/redis)
# MAASQ_SECRETS    <user>.secret, first line = password   (/etc/maasq/secrets)
# MAASQ_RUN        folder of the socket redis.sock and of the filled-in files (/run/maasq-<which>)
# MAASQ_DATA       folder of the log, kept          (/var/lib/maasq-<which>)
# MAASQ_MAXMEMORY  limit, 0 = none                  (0)
set -eu
umask 077

WHICH=${1:?usage: redis.sh state|blobs}
shift
case $WHICH in
state) USERS="broker dashboard deploy replica" ;;
blobs) USERS="worker broker" ;;
*)
    echo "redis.sh: $WHICH: must be state or blobs" >&2
    exit 2
    ;;
esac
SHARE=${MAASQ_SHARE:-/usr/local/share/maasq/redis}
SECRETS=${MAASQ_SECRETS:-/etc/maasq/secrets}
RUN=${MAASQ_RUN:-/run/maasq-$WHICH}
DATA=${MAASQ_DATA:-/var/lib/maasq-$WHICH}

FILL="s|@SOCKET@|$RUN/redis.sock|; s|@DIR@|$DATA|; s|@ACL@|$RUN/users.acl|; s|@MAXMEMORY@|${MAASQ_MAXMEMORY:-0}|"
for user in $USERS; do
    # A deployment without replicas needs no password for them: nobody knows this one.
    [ "$user" != replica ] || [ -r "$SECRETS/replica.secret" ] || {
        FILL="$FILL; s|@REPLICA@|$(od -An -v -tx1 -N 32 /dev/urandom | tr -d ' \n')|"
        continue
    }
    password=$(head -n 1 "$SECRETS/$user.secret") || exit 1
    [ -n "$password" ] || {
        echo "redis.sh: $SECRETS/$user.secret: the first line must hold a password" >&2
        exit 1
    }
    hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
    FILL="$FILL; s|@$(echo "$user" | tr a-z A-Z)@|$hash|"
done
sed "$FILL" "$SHARE/users-$WHICH.acl" >"$RUN/users.acl"
sed "$FILL" "$SHARE/redis-$WHICH.conf" >"$RUN/redis.conf"
# The socket is for the group; the files with the hashes are not.
umask 007
# Cuts a torn transaction off the end of the log first: redis-server by itself would not do it right.
exec maasq redis serve "$DATA" "$RUN/redis.conf" "$@"
