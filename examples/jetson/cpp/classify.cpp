// classify BUNDLE ENGINE SOURCE [FRAMES]: classify a camera (its number), a GStreamer pipeline, a video or an image.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <sstream>

#include "engine.hpp"
#include "preprocess.hpp"

namespace {

constexpr std::size_t kTop = 5;

std::vector<std::string> read_labels(const std::string& bundle, std::int64_t num_classes) {
  std::vector<std::string> labels;
  std::istringstream lines(resnet::read_file(bundle + "/labels.txt"));
  for (std::string line; std::getline(lines, line);) labels.push_back(line);
  if (static_cast<std::int64_t>(labels.size()) != num_classes) {
    throw resnet::BundleError(bundle + "/labels.txt: got " + std::to_string(labels.size()) + " names, expected " +
                              std::to_string(num_classes));
  }
  return labels;
}

void print_top(const std::vector<double>& probabilities, const std::vector<std::string>& labels) {
  std::vector<std::size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t top = std::min(kTop, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(top), order.end(),
                    [&](std::size_t a, std::size_t b) { return probabilities[a] > probabilities[b]; });
  for (std::size_t rank = 0; rank < top; ++rank) {
    std::printf("  %s  %.1f %%\n", labels[order[rank]].c_str(), 100 * probabilities[order[rank]]);
  }
  std::fflush(stdout);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 6 && text.find_first_not_of("0123456789") == std::string::npos;
}

cv::VideoCapture open_capture(const std::string& source) {
  cv::VideoCapture capture;
  if (is_number(source)) {
    capture.open(std::stoi(source), cv::CAP_V4L2);
  } else if (source.find(" ! ") != std::string::npos) {
    capture.open(source, cv::CAP_GSTREAMER);
  } else {
    capture.open(source);
  }
  if (!capture.isOpened()) {
    throw std::runtime_error("cannot open \"" + source + "\"; give a camera's number, a pipeline, a video or an image");
  }
  return capture;
}

void classify(resnet::Engine& engine, const resnet::Manifest& manifest, const std::vector<std::string>& labels,
              const cv::Mat& bgr, long number) {
  const auto start = std::chrono::steady_clock::now();
  cv::Mat rgb;
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);  // a new matrix, so its rows follow each other without padding
  const std::vector<float> input = resnet::preprocess(manifest.preprocessing, rgb.data, rgb.rows, rgb.cols);
  const std::vector<float> scores = engine.run(input);
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  std::printf("frame %ld: %.1f ms to prepare and run\n", number, spent.count());
  print_top(resnet::probabilities(manifest, scores), labels);
}

void run(const std::string& bundle, const std::string& engine_path, const std::string& source, long max_frames) {
  const resnet::Manifest manifest = resnet::load_manifest(bundle);
  if (manifest.num_classes == 1 && manifest.needs_softmax) {
    throw resnet::BundleError(bundle + ": the model gives one number, which has no best class");
  }
  const std::vector<std::string> labels = read_labels(bundle, manifest.num_classes);
  resnet::Engine engine(engine_path, manifest);
  const cv::Mat image = is_number(source) ? cv::Mat() : cv::imread(source, cv::IMREAD_COLOR);
  if (!image.empty()) {
    classify(engine, manifest, labels, image, 1);
    return;
  }
  cv::VideoCapture capture = open_capture(source);
  cv::Mat frame;
  long number = 0;
  while ((max_frames == 0 || number < max_frames) && capture.read(frame)) {
    if (frame.type() != CV_8UC3) throw std::runtime_error("the source gives no 8-bit B, G, R frames");
    classify(engine, manifest, labels, frame, ++number);
  }
  if (number == 0) throw std::runtime_error("\"" + source + "\" opened but gave no frame");
}

}  // namespace

int main(int argc, char** argv) {
  const bool counted = argc == 5 && is_number(argv[4]);
  if (argc != 4 && !counted) {
    std::cerr << "usage: classify BUNDLE ENGINE SOURCE [FRAMES]\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], counted ? std::atol(argv[4]) : 0);
  } catch (const std::exception& err) {
    std::cerr << "classify: " << err.what() << '\n';
    return 1;
  }
  return 0;
}
