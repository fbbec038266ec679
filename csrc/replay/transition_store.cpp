#include "replay/transition_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace {

constexpr int64_t kLine = 64 / sizeof(float);  // floats per cache line

}  // namespace

TransitionStore::TransitionStore(const Shape& shape, const std::string& path)
    : shape_(shape),
      stride_((shape.observation + shape.action + 3 + kLine - 1) / kLine * kLine),
      arena_(static_cast<size_t>(shape.tasks * rows() * stride_) * sizeof(float), path),
      rows_(static_cast<float*>(arena_.data())),
      rings_(shape.tasks) {}

uint32_t TransitionStore::word(const float* row, int which) const {
  uint32_t word;
  std::memcpy(&word, row + shape_.observation + shape_.action + 1 + which, sizeof word);
  return word;
}

void TransitionStore::set_words(float* row, uint32_t flags, uint32_t final) const {
  const uint32_t words[2] = {flags, final};
  std::memcpy(row + shape_.observation + shape_.action + 1, words, sizeof words);
}

uint32_t TransitionStore::push_final(Ring& ring, const float* observation) {
  const int64_t size = shape_.observation;
  const auto length = static_cast<uint32_t>(ring.finals.size() / size);
  if (ring.finals_end - ring.finals_begin == length) {
    const uint32_t longer = length == 0 ? 4 : 2 * length;
    std::vector<float> finals(longer * size);
    for (uint32_t number = ring.finals_begin; number != ring.finals_end; ++number)
      std::copy_n(final_of(ring, number), size, finals.data() + (number & (longer - 1)) * size);
    ring.finals.swap(finals);
  }
  const uint32_t number = ring.finals_end++;
  std::copy_n(observation, size, const_cast<float*>(final_of(ring, number)));
  return number;
}

void TransitionStore::add(int64_t task, const float* observation, const float* action, float reward,
                          bool terminated, bool truncated, const float* next_observation) {
  Ring& ring = rings_[task];
  const size_t observation_bytes = shape_.observation * sizeof(float);
  const int64_t at = row_of(ring.end);
  float* row = mutable_row(task, at);
  // Bytes are compared, not numbers: every tuple comes back as it was put in, NaN and -0 included.
  if (ring.open && std::memcmp(row, observation, observation_bytes) != 0) {
    float* previous = mutable_row(task, row_of(ring.end - 1));
    set_words(previous, word(previous, 0) | kLast, push_final(ring, row));
  }
  if (size(task) == shape_.capacity) {
    ring.finals_begin += (word(mutable_row(task, row_of(ring.begin)), 0) & kLast) != 0;
    ++ring.begin;
  }
  std::memcpy(row, observation, observation_bytes);
  std::memcpy(row + shape_.observation, action, shape_.action * sizeof(float));
  row[shape_.observation + shape_.action] = reward;
  const uint32_t flags = (terminated ? kTerminated : 0u) | (truncated ? kTruncated : 0u);
  if (flags != 0)
    set_words(row, flags | kLast, push_final(ring, next_observation));
  else {
    set_words(row, 0, 0);
    std::memcpy(mutable_row(task, at + 1 == rows() ? 0 : at + 1), next_observation, observation_bytes);
  }
  ring.open = flags == 0;
  ++ring.end;
}

void TransitionStore::restore(int64_t task, Ring ring, uint32_t first, uint32_t n, const void* finals) {
  ring.finals_begin = ring.finals_end = first;
  std::vector<float> observation(shape_.observation);
  const size_t bytes = observation.size() * sizeof(float);
  for (uint32_t i = 0; i < n; ++i) {
    std::memcpy(observation.data(), static_cast<const char*>(finals) + i * bytes, bytes);
    push_final(ring, observation.data());
  }
  rings_[task] = std::move(ring);
}

TransitionStore::Runs TransitionStore::runs_of(const Ring& ring) const {
  const int64_t first = row_of(ring.begin), last = first + ring.end - ring.begin + ring.open;
  return {{first, 0}, {std::min(last, rows()), std::max<int64_t>(last - rows(), 0)}};
}

std::string TransitionStore::check() const {
  for (int64_t task = 0; task < shape_.tasks; ++task) {
    const Ring& ring = rings_[task];
    const std::string name = "task " + std::to_string(task) + ": ";
    if (ring.begin < 0 || size(task) < 0 || size(task) > shape_.capacity) return name + "impossible size";
    uint32_t final = ring.finals_begin;
    for (int64_t sequence = ring.begin; sequence < ring.end; ++sequence) {
      const float* live = row(task, row_of(sequence));
      const uint32_t flags = word(live, 0);
      if ((flags & kLast) != 0 && word(live, 1) != final++)
        return name + "transition " + std::to_string(sequence) + " names the wrong final observation";
      if ((flags & (kTerminated | kTruncated)) != 0 && (flags & kLast) == 0)
        return name + "transition " + std::to_string(sequence) +
               " ends an episode without a final observation";
    }
    if (final != ring.finals_end) return name + "a final observation belongs to no transition";
    const auto length = static_cast<uint32_t>(ring.finals.size() / shape_.observation);
    if ((length & (length - 1)) != 0 || ring.finals_end - ring.finals_begin > length)
      return name + "the ring of final observations is too short";
    if (size(task) > 0 && ring.open == ((word(row(task, row_of(ring.end - 1)), 0) & kLast) != 0))
      return name + "the newest transition has no next observation, or two";
  }
  return "";
}
