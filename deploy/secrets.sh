#!/bin/sh
# Makes the passwords of the Redis users, each in a file of mode 0600; those that exist are kept.
#
#   deploy/secrets.sh /etc/maasq/secrets
set -eu
umask 077
DIR=${1:?usage: secrets.sh DIRECTORY}
mkdir -p "$DIR"
for user in broker dashboard deploy replica worker; do
    file=$DIR/$user.secret
    if [ -s "$file" ]; then
        echo "secrets: $file is there already"
        continue
    fi
    od -An -v -tx1 -N 32 /dev/urandom | tr -d ' \n' >"$file"
    echo >>"$file"
    echo "secrets: made $file"
done
