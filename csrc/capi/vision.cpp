// SPDX-License-Identifier: Apache-2.0
#include "vision.h"

#include <algorithm>
#include <cmath>

#include "failure.h"
#include "utf8.h"

namespace edge::capi {
namespace {

bool fits(const std::vector<int64_t>& have, const std::vector<int64_t>& want) {
  if (have.size() != want.size()) return false;
  for (size_t i = 0; i < have.size(); ++i)
    if (have[i] < 1 || have[i] > int64_t{1} << 30 || (want[i] >= 0 && want[i] != have[i])) return false;
  return true;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") + (shape[i] < 0 ? std::string("None") : std::to_string(shape[i]));
  return text + "]";
}

}  // namespace

Vision::Vision(const Manifest& manifest, std::unique_ptr<VisionRuntime> runtime)
    : runtime_(std::move(runtime)) {
  const DecoderSpec& spec = manifest.decoder;
  const std::vector<int64_t> cache{spec.layers, spec.heads, manifest.prefix, spec.head_dim};
  inputs_ = {{"pixels", {1, 3, manifest.image.height, manifest.image.width}}};
  if (manifest.kernel_prefill)
    outputs_ = {{"prefix_embeddings", {manifest.prefix, spec.hidden}}};
  else if (manifest.has_cross())
    outputs_ = {{"cross_keys", cache}, {"cross_values", cache}};
  else
    outputs_ = {{"prefix_keys", cache}, {"prefix_values", cache}, {"first_logits", {spec.vocab}}};
  if (manifest.has_mask()) {
    // With a cross-attention, or without the prefill, no row of the graph attends with the bias.
    if (!manifest.has_cross() && !manifest.kernel_prefill) inputs_.push_back({"bias_switch", {1}});
    const int64_t span = manifest.bias_sequence ? manifest.bias_sequence : manifest.prefix;
    outputs_.push_back({"key_bias", {spec.layers, span}});
    outputs_.push_back({"mask", {-1, -1}});
  }
  std::vector<std::string> problems;
  compare(runtime_->inputs(), inputs_, "input", true, problems);
  compare(runtime_->outputs(), outputs_, "output", false, problems);
  if (problems.empty()) return;
  std::string message = "the vision graph does not fit the manifest: ";
  for (size_t i = 0; i < std::min<size_t>(problems.size(), 4); ++i) message += (i ? "; " : "") + problems[i];
  throw bundle_failure(message);
}

void Vision::compare(const std::vector<Port>& found, const std::vector<Expected>& expected,
                     const std::string& what, bool exact, std::vector<std::string>& problems) {
  for (const Expected& want : expected) {
    const auto port =
        std::find_if(found.begin(), found.end(), [&](const Port& p) { return p.name == want.name; });
    const std::string label = "the " + what + " " + want.name;
    if (port == found.end())
      problems.push_back(label + " is missing");
    else if (!port->is_float)
      problems.push_back(label + " is not float32");
    else if (!port->is_fixed || !fits(port->shape, want.shape))
      problems.push_back(label + " has another shape than " + shape_text(want.shape));
  }
  if (!exact) return;
  for (const Port& port : found)
    if (std::none_of(expected.begin(), expected.end(),
                     [&](const Expected& want) { return want.name == port.name; }))
      problems.push_back("unknown " + what + " " + in_quotes(port.name));
}

VisionOutput Vision::run(std::span<const float> pixels, bool bias) {
  const float bias_switch = bias ? 1.0f : 0.0f;
  std::vector<GraphInput> feed{{"pixels", pixels, inputs_[0].shape}};
  if (inputs_.size() > 1) feed.push_back({"bias_switch", {&bias_switch, 1}, {1}});
  std::vector<std::string> names;
  for (const Expected& output : outputs_) names.push_back(output.name);
  const std::vector<GraphOutput> made = runtime_->run(feed, names);
  for (size_t i = 0; i < outputs_.size(); ++i) {
    // What the graph declares is not what it must yield: the shapes are what everything behind relies on.
    if (i >= made.size() || !fits(made[i].shape, outputs_[i].shape))
      throw Failure(EDGE_PROCESSING, "the vision graph yields another shape than it says (" + names[i] + ")");
    if (!std::all_of(made[i].data.begin(), made[i].data.end(), [](float v) { return std::isfinite(v); }))
      throw Failure(EDGE_PROCESSING,
                    "the vision graph yields numbers that are not finite (" + names[i] + ")");
  }
  VisionOutput out;
  for (size_t i = 0; i < made.size(); ++i) {
    if (names[i] == "prefix_embeddings") out.embeddings = made[i].data;
    if (names[i].ends_with("_keys")) out.keys = made[i].data;
    if (names[i].ends_with("_values")) out.values = made[i].data;
    if (names[i] == "first_logits") out.first_logits = made[i].data;
    if (names[i] == "key_bias") out.key_bias = made[i].data;
    if (names[i] == "mask") {
      out.mask = made[i].data;
      out.mask_rows = made[i].shape[0], out.mask_columns = made[i].shape[1];
    }
  }
  return out;
}

}  // namespace edge::capi
