# Asserts what the project needs of a kernel, by carrying packages through it. Every check has namespaces of its own.

failures=0

# check NAME COMMAND…: runs it and reports; its output appears only when it fails.
check() {
    name=$1
    shift
    start=$(date +%s)
    if output=$("$@" 2>&1); then
        echo "ok      $name ($(($(date +%s) - start)) s)"
    else
        echo "FAILED  $name"
        echo "$output" | sed 's/^/        /'
        failures=$((failures + 1))
    fi
}

# pair A B: two namespaces with a veth between them, 10.9.0.1 and fd09::1 against .2 and ::2.
pair() {
    ip netns add "$1" && ip netns add "$2" &&
        ip link add eth0 netns "$1" type veth peer name eth0 netns "$2" &&
        address "$1" eth0 10.9.0.1/24 fd09::1/64 &&
        address "$2" eth0 10.9.0.2/24 fd09::2/64
}

# address NAMESPACE LINK V4 V6: without duplicate address detection, so that the address works at once.
address() {
    ip -n "$1" address add "$3" dev "$2" &&
        ip -n "$1" address add "$4" dev "$2" nodad &&
        ip -n "$1" link set "$2" up &&
        ip -n "$1" link set lo up
}

# reaches NAMESPACE ADDRESS
reaches() {
    ip netns exec "$1" ping -c 1 -W 5 "$2"
}

both_families() {
    pair veth-a veth-b && reaches veth-a 10.9.0.2 && reaches veth-a fd09::2
}

wireguard() {
    pair wg-a wg-b || return
    wg genkey >a.key && wg genkey >b.key || return
    tunnel wg-a a.key b.key 10.9.0.2 10.8.0.1/24 fd08::1/64 10.8.0.2/32,fd08::2/128 &&
        tunnel wg-b b.key a.key 10.9.0.1 10.8.0.2/24 fd08::2/64 10.8.0.1/32,fd08::1/128 &&
        reaches wg-a 10.8.0.2 && reaches wg-a fd08::2 || return
    ip netns exec wg-a wg show wg0
    ip netns exec wg-a wg show wg0 latest-handshakes | grep -q '[1-9][0-9]*$'
}

# tunnel NAMESPACE KEY PEERKEY ENDPOINT V4 V6 ALLOWED
tunnel() {
    ip -n "$1" link add wg0 type wireguard &&
        ip netns exec "$1" wg set wg0 listen-port 51820 private-key "$2" \
            peer "$(wg pubkey <"$3")" endpoint "$4:51820" allowed-ips "$7" &&
        address "$1" wg0 "$5" "$6"
}

ipip() {
    pair ipip-a ipip-b &&
        ip -n ipip-a link add ipip0 type ipip local 10.9.0.1 remote 10.9.0.2 &&
        ip -n ipip-b link add ipip0 type ipip local 10.9.0.2 remote 10.9.0.1 &&
        ip -n ipip-a address add 10.8.0.1/24 dev ipip0 && ip -n ipip-a link set ipip0 up &&
        ip -n ipip-b address add 10.8.0.2/24 dev ipip0 && ip -n ipip-b link set ipip0 up &&
        reaches ipip-a 10.8.0.2
}

vxlan_on_bridge() {
    pair vx-a vx-b || return
    for side in a b; do
        [ $side = a ] && here=1 there=2 || { here=2; there=1; }
        ip -n vx-$side link add br0 type bridge &&
            ip -n vx-$side link add vx0 type vxlan id 9 local 10.9.0.$here remote 10.9.0.$there dstport 4789 &&
            ip -n vx-$side link set vx0 master br0 up &&
            address vx-$side br0 10.8.0.$here/24 fd08::$here/64 || return
    done
    reaches vx-a 10.8.0.2 && reaches vx-a fd08::2
}

# The outer namespace has no route back: an answer arrives only when the source was rewritten.
masquerade() {
    pair nat-router nat-outer && ip netns add nat-inner &&
        ip link add eth0 netns nat-inner type veth peer name eth1 netns nat-router &&
        address nat-inner eth0 10.7.0.2/24 fd07::2/64 && address nat-router eth1 10.7.0.1/24 fd07::1/64 &&
        ip -n nat-inner route add default via 10.7.0.1 && ip -n nat-inner route add default via fd07::1 &&
        ip netns exec nat-router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 || return
    if ip netns exec nat-inner ping -c 1 -W 1 10.9.0.2; then
        echo "an answer came without masquerade" && return 1
    fi
    ip netns exec nat-router nft '
        table inet kilo-check {
            set inner4 { type ipv4_addr; flags interval; elements = { 10.7.0.0/24 } }
            set inner6 { type ipv6_addr; flags interval; elements = { fd07::/64 } }
            chain postrouting {
                type nat hook postrouting priority srcnat;
                ip saddr @inner4 ip daddr != @inner4 masquerade
                ip6 saddr @inner6 ip6 daddr != @inner6 masquerade
            }
            chain forward {
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname "eth1" accept
            }
        }' && reaches nat-inner 10.9.0.2 && reaches nat-inner fd09::2
}

policy_rule() {
    pair rule-a rule-b &&
        ip -n rule-b address add 10.6.0.1/32 dev lo &&
        ip -n rule-a route add 10.6.0.1/32 via 10.9.0.2 table 1107 proto 250 || return
    if reaches rule-a 10.6.0.1; then
        echo "an answer came without the rule" && return 1
    fi
    ip -n rule-a rule add to 10.6.0.0/24 lookup 1107 priority 1000 && reaches rule-a 10.6.0.1 &&
        ip -n rule-a -6 rule add to fd06::/64 lookup 1107
}

other_links() {
    ip netns add links && ip -n links link add dummy9 type dummy && ip -n links tuntap add tun9 mode tun &&
        ip -n links link show dummy9 && ip -n links link show tun9
}

echo "Linux $(uname -r), $(nproc) processors, $(date -u +%FT%TZ)"
check "veth pair, both families" both_families
check "wireguard" wireguard
check "ipip" ipip
check "vxlan on a bridge, both families" vxlan_on_bridge
check "nftables: sets, masquerade, connection tracking, both families" masquerade
check "policy rule and own table" policy_rule
check "dummy and tun" other_links
exit $failures
