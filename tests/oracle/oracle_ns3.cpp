// The network and traffic of a dump in ns-3, packet by packet.
//
// From ns-3: links (point-to-point devices and channels: serialisation, propagation, PPP framing), queues in front of
// them, and the event scheduler. Here: packets follow the path of the dump from device to device, and a reliable
// transport with a window per path, as an InfiniBand or RoCE queue pair has it. Queues hold whatever the windows let in,
// so nothing is lost, which is what credits or pause frames are for. Acknowledgements come back after the path's
// propagation and take no bandwidth: real ones are 30 bytes for many packets of 4 KiB.
//
// Switches are store-and-forward, as ns-3's devices are. Two ways to choose among the packets that wait for a link: "rr",
// one queue per path served in turn, as adapters do with queue pairs and switches with inputs, and "fifo".
#include <deque>
#include <map>

#include <ns3/core-module.h>
#include <ns3/network-module.h>
#include <ns3/point-to-point-module.h>

#include "netfile.hpp"

using namespace ns3;
using netfile::Item;

// Which packet this is, for the devices on its way; no bytes on the wire.
class Way : public Tag {
  public:
    uint32_t item = 0, path = 0, hop = 0;
    bool last = false;
    static TypeId GetTypeId() {
        static TypeId id = TypeId("Way").SetParent<Tag>().AddConstructor<Way>();
        return id;
    }
    TypeId GetInstanceTypeId() const override { return GetTypeId(); }
    uint32_t GetSerializedSize() const override { return 13; }
    void Serialize(TagBuffer b) const override {
        b.WriteU32(item);
        b.WriteU32(path);
        b.WriteU32(hop);
        b.WriteU8(last);
    }
    void Deserialize(TagBuffer b) override {
        item = b.ReadU32();
        path = b.ReadU32();
        hop = b.ReadU32();
        last = b.ReadU8();
    }
    void Print(std::ostream &out) const override { out << item << "@" << hop; }
};

// One queue per path, served in turn.
class TurnQueue : public Queue<Packet> {
    std::map<uint32_t, std::deque<Ptr<Packet>>> waiting;
    std::deque<uint32_t> turn;

  public:
    static TypeId GetTypeId() {
        static TypeId id = TypeId("TurnQueue").SetParent<Queue<Packet>>().AddConstructor<TurnQueue>();
        return id;
    }
    bool Enqueue(Ptr<Packet> p) override {
        Way way;
        p->PeekPacketTag(way);
        auto &queue = waiting[way.path];
        if (queue.empty()) {
            turn.push_back(way.path);
        }
        queue.push_back(p);
        return true;
    }
    Ptr<Packet> Dequeue() override {
        if (turn.empty()) {
            return nullptr;
        }
        uint32_t path = turn.front();
        turn.pop_front();
        auto &queue = waiting[path];
        Ptr<Packet> p = queue.front();
        queue.pop_front();
        if (!queue.empty()) {
            turn.push_back(path);
        }
        return p;
    }
    Ptr<Packet> Remove() override { return Dequeue(); }
    Ptr<const Packet> Peek() const override { return turn.empty() ? nullptr : waiting.at(turn.front()).front(); }
};

struct Pair { // the sending side of a path
    std::deque<uint32_t> messages;
    uint64_t handed = 0; // packets of the first message given to the link
    uint32_t window = 0, in_flight = 0;
};

class Replay {
    const netfile::Net &net;
    std::vector<Ptr<PointToPointNetDevice>> sender;
    std::vector<Pair> pairs;
    std::vector<uint32_t> waits;
    std::vector<Time> ready;

    void add_link(const netfile::Link &l, bool in_turn) {
        Ptr<PointToPointChannel> channel = CreateObject<PointToPointChannel>();
        channel->SetAttribute("Delay", TimeValue(PicoSeconds(l.latency_ps)));
        Ptr<PointToPointNetDevice> end[2];
        for (auto &device : end) {
            Ptr<Node> node = CreateObject<Node>();
            device = CreateObject<PointToPointNetDevice>();
            device->SetDataRate(DataRate(l.bytes_per_s * 8));
            device->SetMtu(65535);
            device->SetAddress(Mac48Address::Allocate());
            Ptr<Queue<Packet>> queue;
            if (in_turn) {
                queue = CreateObject<TurnQueue>();
            } else {
                queue = CreateObject<DropTailQueue<Packet>>();
                queue->SetMaxSize(QueueSize("100000000p"));
            }
            device->SetQueue(queue);
            node->AddDevice(device);
            device->Attach(channel);
        }
        end[1]->SetReceiveCallback(MakeCallback(&Replay::arrived, this));
        sender.push_back(end[0]);
    }

    // Twice what keeps the narrowest link busy over a round trip, and a few packets per hop. Every pair has the largest
    // window that any of them needs: equal windows share a bottleneck equally.
    void set_windows() {
        uint32_t most = 0;
        for (const auto &p : net.paths) {
            double wire = (double)(net.packet_bytes + net.header_bytes), hops = (double)p.links.size();
            double round_trip = 2e-12 * (double)net.latency_ps(p) + hops * wire / (double)net.narrowest(p);
            most = std::max(most, (uint32_t)(2 * round_trip * (double)net.narrowest(p) / wire + 4 * hops));
            if (p.cap_bytes_per_s < net.narrowest(p)) {
                netfile::fail("a path whose protocol limits its rate: only links can be limits here");
            }
        }
        for (auto &pair : pairs) {
            pair.window = most;
        }
    }

    void begin(uint32_t i) {
        const Item &item = net.items[i];
        ready[i] = Simulator::Now();
        if (item.is_delay) {
            Simulator::Schedule(PicoSeconds((int64_t)item.amount), &Replay::over, this, i);
        } else {
            post(i);
        }
    }

    void release(uint32_t i, bool sent) {
        for (const auto &w : net.items[i].after) {
            if (w.sent == sent && --waits[w.item] == 0) {
                begin(w.item);
            }
        }
    }

    void over(uint32_t i) {
        finished = std::max(finished, Simulator::Now());
        if (net.items[i].is_delay) {
            release(i, true);
        } else {
            durations.push_back((Simulator::Now() - ready[i]).ToDouble(Time::S));
        }
        release(i, false);
    }

    void post(uint32_t i) {
        pairs[net.items[i].path].messages.push_back(i);
        pump(net.items[i].path);
    }

    // Hands packets to the first link while the window is open.
    void pump(uint32_t path) {
        Pair &pair = pairs[path];
        while (!pair.messages.empty() && pair.in_flight < pair.window) {
            uint32_t i = pair.messages.front();
            uint64_t sent = pair.handed * net.packet_bytes, left = net.items[i].amount - sent;
            Way way;
            way.item = i;
            way.path = path;
            way.last = left <= net.packet_bytes;
            Ptr<Packet> p = Create<Packet>((uint32_t)(std::min(left, net.packet_bytes) + net.header_bytes));
            p->AddPacketTag(way);
            pair.in_flight++;
            pair.handed++;
            if (way.last) {
                pair.handed = 0;
                pair.messages.pop_front();
            }
            send(p, net.paths[path].links[0]);
            if (way.last) {
                release(i, true);
            }
        }
    }

    void send(Ptr<Packet> p, uint32_t link) {
        if (!sender[link]->Send(p, sender[link]->GetBroadcast(), 0x0800)) {
            netfile::fail("a queue lost a packet");
        }
        hops++;
    }

    bool arrived(Ptr<NetDevice>, Ptr<const Packet> packet, uint16_t, const Address &) {
        Way way;
        packet->PeekPacketTag(way);
        const auto &path = net.paths[way.path];
        if (++way.hop < path.links.size()) {
            Ptr<Packet> p = packet->Copy();
            p->ReplacePacketTag(way);
            send(p, path.links[way.hop]);
            return true;
        }
        Simulator::Schedule(PicoSeconds(net.latency_ps(path)), &Replay::acknowledged, this, way.path);
        if (way.last) {
            Simulator::Schedule(PicoSeconds(path.software_ps), &Replay::over, this, way.item);
        }
        return true;
    }

    void acknowledged(uint32_t path) {
        pairs[path].in_flight--;
        pump(path);
    }

  public:
    std::vector<double> durations;
    Time finished;
    uint64_t hops = 0;

    Replay(const netfile::Net &n, bool in_turn)
        : net(n), pairs(n.paths.size()), waits(n.items.size()), ready(n.items.size()) {
        for (const auto &l : net.links) {
            add_link(l, in_turn);
        }
        set_windows();
        for (uint32_t i = 0; i < net.items.size(); i++) {
            waits[i] = net.items[i].waits;
        }
        for (uint32_t i = 0; i < net.items.size(); i++) { // only now: what begins may already release others
            if (net.items[i].waits == 0) {
                begin(i);
            }
        }
    }
};

int main(int argc, char **argv) {
    std::string order = argc == 3 ? argv[2] : "rr";
    if (argc < 2 || argc > 3 || (order != "fifo" && order != "rr")) {
        netfile::fail("usage: oracle_ns3 FILE [rr|fifo]");
    }
    Time::SetResolution(Time::PS);
    netfile::Net net = netfile::read(argv[1]);
    Replay replay(net, order == "rr");
    netfile::Stopwatch watch;
    Simulator::Run();
    if (replay.durations.empty()) {
        netfile::fail("no message arrived");
    }
    netfile::report(replay.finished.ToDouble(Time::S), replay.durations, watch, Simulator::GetEventCount());
    Simulator::Destroy();
    return 0;
}
