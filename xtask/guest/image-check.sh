# Runs in mount, network and process namespaces of its own, as root. $1: the image's root; $2: what stands for the host.
root=$1 host=$2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for device in null random urandom zero; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount --bind "$host/bin" "$root/host/opt/cni/bin"
mount --bind "$host/conf" "$root/host/etc/cni/net.d"
mount --bind "$host/state" "$root/var/lib/kilo"
mount --bind "$root/proc/sys/net" "$root/host/proc/sys/net"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -o remount,bind,ro "$root"
inside() {
    setpriv --bounding-set=-all,+net_admin,+sys_chroot --inh-caps=-all --no-new-privs chroot "$root" "$@"
}
say() { echo "image-check: $*"; }

say "kg $(inside /kg version)"
inside /kgctl --help >/dev/null
inside /opt/bin/kg --help >/dev/null
if (echo >"$root/file") 2>/dev/null; then
    say "the root file system can be written"
    exit 1
fi

CNI_NETWORK_CONFIG='{"cniVersion":"0.4.0","name":"kilo","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}'
export CNI_NETWORK_CONFIG
inside /opt/bin/kg install-cni
again=$(inside /opt/bin/kg install-cni)
if [ -n "$again" ]; then
    say "install-cni is not done after one run: $again"
    exit 1
fi
for plugin in bridge host-local loopback portmap; do
    version=$(CNI_COMMAND=VERSION "$host/bin/$plugin" </dev/null)
    say "$plugin $version"
done

# The settings of the network: read-only where they are, writable where the manifests mount them.
if (echo 1 >"$root/proc/sys/net/ipv4/ip_forward") 2>/dev/null; then
    say "/proc/sys can be written"
    exit 1
fi
echo 1 >"$root/host/proc/sys/net/ipv4/ip_forward"

# Nobody answers at this address: the agent makes its key, says so, and goes on until it is told to end.
ip link set lo up
inside /opt/bin/kg --master http://127.0.0.1:1 --hostname image-check --cni=false --listen 127.0.0.1:1107 \
    >"$host/sys/output" 2>&1 &
agent=$!
for _ in $(seq 100); do
    grep -q "no connection to the API server" "$host/sys/output" && [ -s "$host/state/key" ] && break
    kill -0 "$agent" 2>/dev/null || break
    sleep 0.1
done
kill -TERM "$agent" 2>/dev/null || true
wait "$agent" || true
if ! grep -q "no connection to the API server" "$host/sys/output" || ! [ -s "$host/state/key" ]; then
    cat "$host/sys/output"
    say "the agent has made no key, or does not say that its API is away"
    exit 1
fi
say "the image runs"
