// A gRPC server that answers every unary method with one constant message: what the loader and the RPC layer cost when
// the server costs least. `echo --announce FILE [--reply FILE] [--threads N]` listens on 127.0.0.1, on a port that the
// system chooses, and writes {"grpc": "127.0.0.1:PORT"} to FILE when it is ready.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

// One call: requested, then its message read, then answered.
class Exchange {
 public:
  Exchange(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& queue, const grpc::ByteBuffer& reply)
      : service_(service), queue_(queue), reply_(reply), stream_(&context_) {
    service.RequestCall(&context_, &stream_, &queue, &queue, this);
  }

  void Step(bool ok) {
    if (state_ == State::kAwaited) {
      if (!ok) return Done();  // the server shuts down
      new Exchange(service_, queue_, reply_);
      state_ = State::kReading;
      stream_.Read(&request_, this);
    } else if (state_ == State::kReading && ok) {
      state_ = State::kAnswered;
      stream_.WriteAndFinish(reply_, grpc::WriteOptions(), grpc::Status::OK, this);
    } else {
      Done();
    }
  }

 private:
  enum class State { kAwaited, kReading, kAnswered };

  void Done() { delete this; }

  grpc::AsyncGenericService& service_;
  grpc::ServerCompletionQueue& queue_;
  const grpc::ByteBuffer& reply_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer request_;
  State state_ = State::kAwaited;
};

struct Options {
  std::string announce;
  std::string reply = "ok";
  int threads = 1;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--announce") {
      options.announce = argv[i + 1];
    } else if (flag == "--reply") {
      std::ostringstream bytes;
      bytes << std::ifstream(argv[i + 1], std::ios::binary).rdbuf();
      options.reply = bytes.str();
    } else if (flag == "--threads") {
      options.threads = std::max(1, std::atoi(argv[i + 1]));
    }
  }
  if (options.announce.empty()) {
    std::fprintf(stderr, "usage: echo --announce FILE [--reply FILE] [--threads N]\n");
    std::exit(2);
  }
  return options;
}

void Announce(const std::string& path, int port) {
  const std::string partial = path + ".partial";
  std::ofstream(partial) << "{\"grpc\": \"127.0.0.1:" << port << "\"}\n";
  std::rename(partial.c_str(), path.c_str());
}

void Serve(grpc::ServerCompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) static_cast<Exchange*>(tag)->Step(ok);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  const grpc::Slice slice(options.reply.data(), options.reply.size(), grpc::Slice::STATIC_SLICE);
  const grpc::ByteBuffer reply(&slice, 1);
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues;
  for (int i = 0; i < options.threads; ++i) queues.push_back(builder.AddCompletionQueue());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) return 1;
  for (auto& queue : queues) {
    for (int i = 0; i < 64; ++i) new Exchange(service, *queue, reply);
  }
  Announce(options.announce, port);
  std::vector<std::thread> threads;
  for (auto& queue : queues) threads.emplace_back([&queue] { Serve(*queue); });
  for (std::thread& thread : threads) thread.join();
  return 0;
}
