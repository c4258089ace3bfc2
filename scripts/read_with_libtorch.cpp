// Runs a model of a bundle in C++ on the golden sample, and compares what comes out.
//
//   read_with_libtorch BUNDLE [user_tower|item_tower|ranker]     exit code 1 if it comes out otherwise
//
// Compiled against the headers and libraries of the torch wheel (T=.../site-packages/torch):
//
//   g++ -std=c++20 -O1 scripts/read_with_libtorch.cpp -o read_with_libtorch -I$T/include
//       -I$T/include/torch/csrc/api/include -L$T/lib -Wl,-rpath,$T/lib -ltorch -ltorch_cpu -lc10

#include <torch/script.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Tensors = std::map<std::string, torch::Tensor>;

constexpr double kTolerance = 1e-4;  // of the largest number, as in sample.json

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The part of JSON that the header of a safetensors file consists of: nested objects, strings, lists of numbers.
class Header {
 public:
  explicit Header(std::string text) : text_(std::move(text)) {}

  // Takes the next character if it is the expected one; spaces do not count.
  bool take(char expected) {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (at_ >= text_.size() || text_[at_] != expected) return false;
    ++at_;
    return true;
  }

  void need(char expected) {
    if (!take(expected)) throw std::runtime_error(std::string("sample.safetensors: no '") + expected + "' in the header");
  }

  std::string string() {
    need('"');
    std::string out;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\') ++at_;  // the writer escapes quotes and backslashes alone
      out += text_.at(at_++);
    }
    need('"');
    return out;
  }

  std::vector<int64_t> numbers() {
    std::vector<int64_t> out;
    need('[');
    while (!take(']')) {
      take(',');
      size_t length = 0;
      out.push_back(std::stoll(text_.substr(at_, 24), &length));
      at_ += length;
    }
    return out;
  }

 private:
  std::string text_;
  size_t at_ = 0;
};

Tensors read_tensors(const std::string& path) {
  const std::string content = read_file(path);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(content.at(i));
  Header header(content.substr(8, length));
  Tensors out;
  header.need('{');
  while (!header.take('}')) {
    header.take(',');
    const std::string name = header.string();
    header.need(':');
    header.need('{');
    std::string dtype;
    std::vector<int64_t> shape, offsets;
    while (!header.take('}')) {
      header.take(',');
      const std::string key = header.string();
      header.need(':');
      if (key == "dtype") dtype = header.string();
      if (key == "shape") shape = header.numbers();
      if (key == "data_offsets") offsets = header.numbers();
    }
    auto* data = const_cast<char*>(content.data()) + 8 + length + offsets.at(0);
    const auto type = dtype == "F32" ? torch::kFloat32 : torch::kInt64;
    out[name] = torch::from_blob(data, shape, type).clone();  // on little-endian machines
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::cerr << "usage: read_with_libtorch BUNDLE [user_tower|item_tower|ranker]\n";
    return 2;
  }
  const std::string folder = argv[1], model = argc > 2 ? argv[2] : "user_tower";
  try {
    const Tensors tensors = read_tensors(folder + "/sample.safetensors");
    const std::string start = model + "/inputs/";
    c10::Dict<std::string, torch::Tensor> inputs;
    for (const auto& [name, tensor] : tensors) {
      if (name.rfind(start, 0) == 0) inputs.insert(name.substr(start.size()), tensor);
    }
    torch::InferenceMode no_gradients;
    torch::jit::Module module = torch::jit::load(folder + "/" + model + ".pt", torch::kCPU);
    const torch::Tensor found = module.forward({inputs}).toTensor();
    const torch::Tensor expected = tensors.at(model + "/output");
    const double difference = (found - expected).abs().max().item<double>();
    std::cout << model << ": " << found.size(0) << " rows of the sample, largest difference " << difference << "\n";
    return difference <= kTolerance * expected.abs().max().item<double>() ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
