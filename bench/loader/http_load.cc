// Load over HTTP/1.1 with kept-alive connections, one request on each at a time, from one epoll loop.
//
// Understands what the measured servers send: a status line, Content-Length, a body. Anything else ends the run with a
// message. Open loop: an arrival that finds every connection busy waits, and its latency runs from its intended time.
#include <netdb.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "load.h"

namespace {

struct Connection {
  int fd = -1;
  bool busy = false;
  Call call;
  size_t written = 0;
  std::string in;
};

struct Reply {
  int code = 2;
  size_t begin = 0;  // of the body, in Connection::in
  size_t length = 0;
  bool close = false;
};

int Dial(const std::string& target) {
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos) Fail("HTTP target must be host:port: " + target);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(target.substr(0, colon).c_str(), target.substr(colon + 1).c_str(), &hints, &found) != 0) {
    Fail("cannot resolve " + target);
  }
  const int fd = socket(found->ai_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) Fail("cannot connect to " + target);
  freeaddrinfo(found);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// The gRPC code with the meaning of an HTTP status, so that both kinds of servers are counted alike.
int CodeOf(int status) {
  switch (status) {
    case 200: return 0;
    case 400: case 422: return 3;
    case 404: return 5;
    case 408: case 504: return 4;
    case 429: return 8;
    case 500: return 13;
    case 502: case 503: return 14;
    default: return 2;
  }
}

// Reads the head of a reply. False while it is incomplete.
bool ParseHead(const std::string& in, Reply& reply) {
  const size_t end = in.find("\r\n\r\n");
  if (end == std::string::npos) return false;
  if (in.size() < 12 || in.compare(0, 7, "HTTP/1.") != 0) Fail("not an HTTP/1.1 reply");
  reply.code = CodeOf(std::atoi(in.c_str() + 9));
  reply.begin = end + 4;
  bool sized = false;
  for (size_t line = in.find("\r\n") + 2; line < end; line = in.find("\r\n", line) + 2) {
    if (strncasecmp(in.c_str() + line, "content-length:", 15) == 0) {
      reply.length = std::strtoul(in.c_str() + line + 15, nullptr, 10);
      sized = true;
    } else if (strncasecmp(in.c_str() + line, "connection: close", 17) == 0) {
      reply.close = true;
    }
  }
  if (!sized) Fail("a reply without content-length");
  return true;
}

class HttpRun {
 public:
  HttpRun(const Options& options, Window& window)
      : options_(options), window_(window), recorder_(options, window), random_(options.seed),
        gap_(options.rate > 0 ? options.rate : 1) {
    for (const std::string& body : options.requests) {
      messages_.push_back("POST " + options.http_path + " HTTP/1.1\r\nHost: " + options.target +
                          "\r\nContent-Type: application/octet-stream\r\nContent-Length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body);
    }
    poll_ = epoll_create1(0);
    timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);  // the clock of std::chrono::steady_clock
    epoll_event event{};
    event.events = EPOLLIN;
    epoll_ctl(poll_, EPOLL_CTL_ADD, timer_, &event);  // data.ptr stays null: the timer
    for (int i = 0; i < options.concurrency; ++i) {
      connections_.push_back(std::make_unique<Connection>());
      Open(*connections_.back());
    }
  }

  Outcome Run() {
    begin_ = OpenWindow(options_, window_);
    if (options_.rate > 0) {
      next_at_ = begin_;
      Advance();
      Arm();
    } else {
      for (auto& connection : connections_) SendNext(*connection);
    }
    epoll_event events[64];
    while (!Finished()) {
      const int count = epoll_wait(poll_, events, 64, 20);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.ptr == nullptr) {
          Arrivals();
        } else {
          Serve(*static_cast<Connection*>(events[i].data.ptr));
        }
      }
    }
    return Outcome{std::move(recorder_), sent_, begin_};
  }

 private:
  void Open(Connection& connection) {
    if (connection.fd >= 0) close(connection.fd);
    connection.fd = Dial(options_.target);
    connection.in.clear();
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.ptr = &connection;
    epoll_ctl(poll_, EPOLL_CTL_ADD, connection.fd, &event);
  }

  bool Finished() {
    if (sending_) return false;
    if (recorder_.answered() == sent_) return true;
    if (drain_until_ == Clock::time_point{}) drain_until_ = Clock::now() + Seconds(options_.drain_s);
    return Clock::now() >= drain_until_;
  }

  bool MaySend(Clock::time_point at) {
    if (sending_ && (options_.count > 0 ? sent_ >= options_.count : at >= window_.end)) sending_ = false;
    return sending_;
  }

  // Closed loop: the connection's next call, started now.
  void SendNext(Connection& connection) {
    const Clock::time_point now = Clock::now();
    if (MaySend(now)) Send(connection, now, sent_++);
  }

  void Send(Connection& connection, Clock::time_point intended, long number) {
    connection.busy = true;
    connection.written = 0;
    connection.call = Call{intended, Clock::now(), static_cast<size_t>(number) % messages_.size()};
    Flush(connection);
  }

  void Flush(Connection& connection) {
    const std::string& message = messages_[connection.call.request];
    while (connection.busy && connection.written < message.size()) {
      const ssize_t n = send(connection.fd, message.data() + connection.written, message.size() - connection.written,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0) return;  // full: the next EPOLLOUT goes on; broken: the read sees it
      connection.written += static_cast<size_t>(n);
    }
  }

  void Serve(Connection& connection) {
    Flush(connection);
    char buffer[1 << 16];
    while (true) {
      const ssize_t n = recv(connection.fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {
        Open(connection);
        if (connection.busy) Finish(connection, 14, 0, true);
        return;
      }
      connection.in.append(buffer, static_cast<size_t>(n));
      Reply reply;
      if (!ParseHead(connection.in, reply) || connection.in.size() < reply.begin + reply.length) continue;
      const bool matched = Compare(connection, reply);
      connection.in.erase(0, reply.begin + reply.length);
      if (reply.close) Open(connection);
      Finish(connection, reply.code, reply.length, matched);
    }
  }

  bool Compare(const Connection& connection, const Reply& reply) {
    if (reply.code != 0 || !recorder_.WantsCheck()) return true;
    const size_t want = options_.expected[connection.call.request].size();
    if (reply.length < want) return false;
    return Matches(options_, connection.call.request, connection.in.data() + reply.begin + reply.length - want);
  }

  void Finish(Connection& connection, int code, size_t bytes, bool matched) {
    connection.busy = false;
    recorder_.Note(connection.call, Clock::now(), code, bytes, matched);
    if (options_.rate <= 0) {
      SendNext(connection);
    } else if (!waiting_.empty()) {
      const auto [intended, number] = waiting_.front();
      waiting_.pop_front();
      Send(connection, intended, number);
    }
  }

  // Moves `next_at_` on by one gap of the Poisson process.
  void Advance() { next_at_ += Seconds(gap_(random_)); }

  void Arm() {
    const int64_t at = std::chrono::nanoseconds(next_at_.time_since_epoch()).count();
    itimerspec spec{};
    spec.it_value = {at / 1'000'000'000, at % 1'000'000'000};
    timerfd_settime(timer_, TFD_TIMER_ABSTIME, &spec, nullptr);
  }

  void Arrivals() {
    uint64_t expirations;
    if (read(timer_, &expirations, sizeof expirations) < 0) return;
    while (next_at_ <= Clock::now() && MaySend(next_at_)) {
      const std::pair<Clock::time_point, long> arrival{next_at_, sent_++};
      Connection* free = FreeConnection();
      if (free != nullptr) {
        Send(*free, arrival.first, arrival.second);
      } else {
        waiting_.push_back(arrival);
      }
      Advance();
    }
    if (MaySend(next_at_)) Arm();
  }

  Connection* FreeConnection() {
    for (auto& connection : connections_) {
      if (!connection->busy) return connection.get();
    }
    return nullptr;
  }

  const Options& options_;
  Window& window_;
  Recorder recorder_;
  std::mt19937_64 random_;
  std::exponential_distribution<double> gap_;
  std::vector<std::string> messages_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::deque<std::pair<Clock::time_point, long>> waiting_;
  int poll_ = -1, timer_ = -1;
  long sent_ = 0;
  bool sending_ = true;
  Clock::time_point begin_{}, next_at_{}, drain_until_{};
};

}  // namespace

Outcome RunHttp(const Options& options, Window& window) { return HttpRun(options, window).Run(); }
