// Networks and traffic as `staticfire net --dump-oracle` writes them, and the report that every oracle prints.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

namespace netfile {

struct Link {
    uint64_t bytes_per_s;
    int64_t latency_ps;
};

struct Path {
    uint32_t src, dst;
    int64_t software_ps;
    uint64_t cap_bytes_per_s;
    std::vector<uint32_t> links;
};

struct Wait {
    uint32_t item;
    bool sent; // else delivered
};

struct Item {
    bool is_delay;
    uint32_t path;
    uint64_t amount; // bytes, or picoseconds
    uint32_t waits;
    std::vector<Wait> after; // who waits for this
};

struct Net {
    uint64_t packet_bytes, header_bytes;
    bool store_and_forward;
    std::vector<Link> links;
    std::vector<Path> paths;
    std::vector<Item> items;

    uint64_t packets(uint64_t bytes) const { return (bytes + packet_bytes - 1) / packet_bytes; }
    uint64_t wire_bytes(uint64_t bytes) const { return bytes + packets(bytes) * header_bytes; }
    int64_t latency_ps(const Path &p) const {
        int64_t sum = 0;
        for (uint32_t l : p.links) {
            sum += links[l].latency_ps;
        }
        return sum;
    }
    uint64_t narrowest(const Path &p) const {
        uint64_t rate = std::numeric_limits<uint64_t>::max();
        for (uint32_t l : p.links) {
            rate = std::min(rate, links[l].bytes_per_s);
        }
        return rate;
    }
};

[[noreturn]] inline void fail(const std::string &what) {
    std::cerr << "oracle: " << what << "\n";
    std::exit(3);
}

inline size_t section(std::istream &in, const char *name) {
    std::string word;
    size_t n;
    if (!(in >> word >> n) || word != name) {
        fail(std::string("expected \"") + name + " N\", found \"" + word + "\"");
    }
    return n;
}

inline void read_paths(std::istream &in, Net &net) {
    net.paths.resize(section(in, "paths"));
    for (Path &p : net.paths) {
        size_t n = 0;
        in >> p.src >> p.dst >> p.software_ps >> p.cap_bytes_per_s >> n;
        p.links.resize(std::min<size_t>(n, 64));
        for (uint32_t &l : p.links) {
            in >> l;
            if (l >= net.links.size()) {
                fail("a path uses a link that is not there");
            }
        }
    }
}

inline void read_items(std::istream &in, Net &net) {
    net.items.resize(section(in, "items"));
    for (Item &i : net.items) {
        std::string word;
        in >> word;
        i.is_delay = word == "delay";
        i.path = 0;
        i.waits = 0;
        if (!i.is_delay) {
            in >> i.path;
        }
        in >> i.amount;
        if (!i.is_delay && i.path >= net.paths.size()) {
            fail("a message uses a path that is not there");
        }
    }
    for (size_t k = section(in, "waits"); k > 0; k--) {
        uint32_t item = 0, on = 0;
        std::string edge;
        in >> item >> on >> edge;
        if (item >= net.items.size() || on >= item) {
            fail("an item waits for a later one");
        }
        net.items[on].after.push_back({item, edge == "sent"});
        net.items[item].waits++;
    }
}

inline Net read(const char *file) {
    std::ifstream in(file);
    std::string magic, version, word, forwarding;
    Net net;
    if (!(in >> magic >> version >> word >> net.packet_bytes >> net.header_bytes >> forwarding) ||
        magic != "staticfire-net" || version != "1" || word != "packet" || net.packet_bytes == 0) {
        fail(std::string(file) + " is no dump of staticfire net");
    }
    net.store_and_forward = forwarding == "store";
    net.links.resize(section(in, "links"));
    for (Link &l : net.links) {
        in >> l.bytes_per_s >> l.latency_ps;
    }
    read_paths(in, net);
    read_items(in, net);
    if (!in) {
        fail(std::string(file) + " ends early or holds something that is no number");
    }
    return net;
}

// How long something took: by the wall, and on this process's processor, which other work on the machine leaves alone.
class Stopwatch {
    std::chrono::steady_clock::time_point from = std::chrono::steady_clock::now();
    std::clock_t cpu_from = std::clock();

  public:
    double wall_s() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    }
    double cpu_s() const { return (double)(std::clock() - cpu_from) / CLOCKS_PER_SEC; }
};

// Durations of messages, in seconds; the percentiles are those of staticfire net.
inline void report(double time_s, std::vector<double> messages, const Stopwatch &watch, uint64_t events) {
    double wall_s = watch.wall_s(), cpu_s = watch.cpu_s();
    std::sort(messages.begin(), messages.end());
    size_t n = messages.size();
    double p50 = n ? messages[(n - 1) / 2] : 0, p99 = n ? messages[(n - 1) - (n - 1) / 100] : 0;
    std::printf("{\"time_s\": %.12g, \"message_p50_s\": %.12g, \"message_p99_s\": %.12g, \"wall_s\": %.6g, "
                "\"cpu_s\": %.6g, \"events\": %llu}\n",
                time_s, p50, p99, wall_s, cpu_s, (unsigned long long)events);
}

} // namespace netfile
