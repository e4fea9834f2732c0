#!/bin/sh
# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

# Installs the proxies that the benchmark compares, from Debian's or Ubuntu's
# packages, and starts none of them as a service. Needs root.
set -eu

# A file of this name that exits with 101 has packages start nothing.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends haproxy nginx-light nghttp2-proxy

haproxy -v | head -n 1
/usr/sbin/nginx -v
nghttpx --version
