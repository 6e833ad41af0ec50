// The network and traffic of a dump in SimGrid: flows that share links max-min fairly (model CM02).
//
// So that both simulators mean the same physics, what CM02 adds for TCP over the Internet is off: no window limit, no
// traffic of acknowledgements, no factors, no weight by round-trip time. The last needs links without latency, so
// latency is an activity of its own: after the flow, its latency and the last packet's way over the hops.
#include <map>
#include <simgrid/s4u.hpp>

#include "netfile.hpp"

namespace sg = simgrid::s4u;
using netfile::Item;
using netfile::Net;

static const double PS = 1e-12;

static void follow(const sg::ActivityPtr &a, const sg::ActivityPtr &b) {
    if (auto *exec = dynamic_cast<sg::Exec *>(a.get())) {
        exec->add_successor(b);
    } else if (auto *comm = dynamic_cast<sg::Comm *>(a.get())) {
        comm->add_successor(b);
    }
}

class Replay {
    const Net &net;
    sg::Engine &engine;
    std::vector<sg::Host *> host;
    sg::Host *clock; // delays are work on a host with a core for each of them
    std::vector<sg::ActivityPtr> sent, tail; // by item: what ends when it is sent, and delivered

    sg::ExecPtr delay(double ps) {
        return sg::Exec::init()->set_host(clock)->set_flops_amount(ps);
    }

    void platform() {
        auto *zone = sg::create_full_zone("net");
        uint32_t hosts = 0;
        for (const auto &p : net.paths) {
            hosts = std::max({hosts, p.src + 1, p.dst + 1});
        }
        for (uint32_t h = 0; h < hosts; h++) {
            host.push_back(zone->create_host("h" + std::to_string(h), 1e12)->seal());
        }
        clock = zone->create_host("clock", 1e12)->set_core_count(1 << 24)->seal();
        std::vector<sg::LinkInRoute> links;
        for (size_t l = 0; l < net.links.size(); l++) {
            auto *link = zone->create_link("l" + std::to_string(l), (double)net.links[l].bytes_per_s);
            links.emplace_back(link->set_latency(0)->seal());
        }
        std::map<std::pair<uint32_t, uint32_t>, bool> seen;
        for (const auto &p : net.paths) {
            if (seen[{p.src, p.dst}]) {
                netfile::fail("two paths between one pair of endpoints");
            }
            seen[{p.src, p.dst}] = true;
            std::vector<sg::LinkInRoute> route;
            for (uint32_t l : p.links) {
                route.push_back(links[l]);
            }
            zone->add_route(host[p.src]->get_netpoint(), host[p.dst]->get_netpoint(), nullptr, nullptr, route, false);
        }
        zone->seal();
    }

    // The flow, then its flight, unless that takes no time.
    void message(size_t i, const Item &item) {
        const auto &p = net.paths[item.path];
        auto comm = sg::Comm::sendto_init(host[p.src], host[p.dst]);
        comm->set_payload_size(net.wire_bytes(item.amount));
        if (p.cap_bytes_per_s < net.narrowest(p)) {
            comm->set_rate((double)p.cap_bytes_per_s);
        }
        sent[i] = tail[i] = comm;
        double flight = (double)(net.latency_ps(p) + p.software_ps), slowest = 0;
        for (uint32_t l : p.links) {
            uint64_t packet = std::min(item.amount, net.packet_bytes) + net.header_bytes;
            double t = net.store_and_forward ? (double)packet / (double)net.links[l].bytes_per_s / PS : 0;
            flight += t;
            slowest = std::max(slowest, t);
        }
        if (flight - slowest > 0) {
            tail[i] = delay(flight - slowest);
            follow(comm, tail[i]);
        }
    }

  public:
    Replay(const Net &n, sg::Engine &e) : net(n), engine(e), sent(n.items.size()), tail(sent) {
        platform();
        for (size_t i = 0; i < net.items.size(); i++) {
            if (net.items[i].is_delay) {
                sent[i] = tail[i] = delay((double)net.items[i].amount);
            } else {
                message(i, net.items[i]);
            }
        }
        for (size_t i = 0; i < net.items.size(); i++) {
            for (const auto &w : net.items[i].after) {
                follow((w.sent ? sent : tail)[i], sent[w.item]);
            }
        }
    }

    // Communications that main() starts itself are dropped; those that follow an execution are not.
    void run() {
        auto gate = delay(0);
        for (size_t i = 0; i < sent.size(); i++) {
            if (net.items[i].waits == 0) {
                follow(gate, sent[i]);
            }
        }
        for (auto &part : sent) {
            part->vetoable_start(); // now or when all that it follows is over
        }
        for (auto &part : tail) {
            if (part->get_state() == sg::Activity::State::INITED) {
                part->vetoable_start();
            }
        }
        gate->vetoable_start();
        engine.run();
    }

    std::vector<double> durations() const {
        std::vector<double> all;
        for (size_t i = 0; i < sent.size(); i++) {
            if (!net.items[i].is_delay) {
                all.push_back(tail[i]->get_finish_time() - sent[i]->get_start_time());
            }
        }
        return all;
    }
};

int main(int argc, char **argv) {
    sg::Engine engine(&argc, argv);
    if (argc != 2) {
        netfile::fail("usage: oracle_simgrid FILE");
    }
    sg::Engine::set_config("network/model:CM02");
    sg::Engine::set_config("network/crosstraffic:0");
    sg::Engine::set_config("network/TCP-gamma:0");
    sg::Engine::set_config("network/weight-S:0");
    sg::Engine::set_config("network/latency-factor:1");
    sg::Engine::set_config("network/bandwidth-factor:1");
    sg::Engine::set_config("surf/precision:1e-12");
    Net net = netfile::read(argv[1]);
    Replay replay(net, engine);
    netfile::Stopwatch watch;
    replay.run();
    netfile::report(sg::Engine::get_clock(), replay.durations(), watch, net.items.size());
    return 0;
}
