#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "replay/checkpoint.h"

using namespace checkpoint;

namespace {

ChunkHeader chunk_header(size_t bytes, uint32_t checksum) {
  if (bytes > UINT32_MAX)
    throw std::runtime_error(
        "a part of the replay has " + std::to_string(bytes) +
        " bytes; its checkpoint holds less than 4 GiB in one part: lower replay.capacity");
  return {static_cast<uint32_t>(bytes), checksum};
}

void put_chunk(const ReplayBuffer::Sink& sink, const void* bytes, size_t n) {
  const ChunkHeader header = chunk_header(n, crc32(0, bytes, n));
  sink(&header, sizeof header);
  sink(bytes, n);
}

}  // namespace

std::array<Column, 9> columns_of(const TransitionStore::Shape& shape, const BatchView& batch) {
  const auto floats = [&](float* data, int64_t width) {
    return Column{data, static_cast<size_t>(batch.rows * width) * sizeof(float)};
  };
  const auto names = [&](int64_t* data) {
    return Column{data, static_cast<size_t>(batch.rows) * sizeof(int64_t)};
  };
  return {floats(batch.observation, shape.observation),
          floats(batch.action, shape.action),
          floats(batch.reward, 1),
          floats(batch.terminated, 1),
          floats(batch.next_observation, batch.next > 0 ? batch.next : shape.observation),
          names(batch.task),
          floats(batch.weight, 1),
          names(batch.id),
          floats(batch.discount, 1)};
}

// Every call of `add` adds one transition of each task, so all rings have the first one's numbers.
int64_t ReplayBuffer::oldest_row() const {
  const int64_t begin = store_.begin(0);
  return begin - (settings_.shape.frame > 0 && begin > 0);  // stacked, the one before holds a frame
}

int64_t ReplayBuffer::rows_of_chunk() const { return std::max<int64_t>(1, kChunk / store_.bytes_per_row()); }

ReplayBuffer::Span ReplayBuffer::settled_rows() const {
  const auto lock = this->lock();
  const int64_t oldest = oldest_row();
  return {oldest, std::max(oldest, store_.end(0) - 1)};  // the newest may yet become its run's last
}

void ReplayBuffer::put_rows(int64_t task, int64_t first, int64_t last, const Sink& sink) const {
  const int64_t row_bytes = store_.bytes_per_row(), most = rows_of_chunk();
  for (int64_t at = first, n; at < last; at += n) {
    n = std::min(most, last - at);
    const int64_t row = store_.row_of(at), before_wrap = std::min(n, store_.rows() - row);
    const size_t here = before_wrap * row_bytes, there = (n - before_wrap) * row_bytes;
    const void *head = store_.row(task, row), *tail = store_.row(task, 0);
    const ChunkHeader header = chunk_header(here + there, crc32(crc32(0, head, here), tail, there));
    sink(&header, sizeof header);
    sink(head, here);
    sink(tail, there);
  }
}

void ReplayBuffer::check_settled(int64_t first, int64_t last) const {
  if (first < oldest_row() || last > store_.end(0) - 1 || first >= last)
    throw std::invalid_argument("the rows of transitions " + std::to_string(first) + " to " +
                                std::to_string(last) + " are not all there to be saved");
}

void ReplayBuffer::put_segment_header(int64_t tasks, int64_t first, int64_t last, const Sink& sink) const {
  SegmentHeader header{{}, kVersion, static_cast<uint32_t>(store_.bytes_per_row()), tasks, first, last, 0, 0};
  std::memcpy(header.magic, kSegmentMagic, sizeof kSegmentMagic);
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
}

void ReplayBuffer::save_rows(int64_t first, int64_t last, const Sink& sink) const {
  const auto lock = this->lock();
  check_settled(first, last);
  put_segment_header(settings_.shape.tasks, first, last, sink);
  for (int64_t task = 0; task < settings_.shape.tasks; ++task) put_rows(task, first, last, sink);
}

ReplayBuffer::Header ReplayBuffer::header_of(int64_t tasks, int64_t segments, int64_t prefetched) const {
  const auto& shape = settings_.shape;
  Header header{{},
                kVersion,
                !trees_.empty(),
                tasks,
                shape.capacity,
                shape.observation,
                shape.action,
                settings_.seed,
                draws_,
                first_alpha_,
                settings_.alpha,
                segments,
                prefetched,
                static_cast<uint32_t>(shape.frame),
                0};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  return header;
}

void ReplayBuffer::put_header(Header header, const std::vector<Segment>& segments, const Sink& sink) const {
  header.checksum = crc32(0, &header, sizeof header - sizeof header.checksum);
  sink(&header, sizeof header);
  std::vector<SegmentNumbers> names;
  for (const Segment& segment : segments) names.push_back({segment.first, segment.last, segment.checksum, 0});
  put_chunk(sink, names.data(), names.size() * sizeof(SegmentNumbers));
}

void ReplayBuffer::put_task(int64_t task, const std::vector<Segment>& segments, const Sink& sink) const {
  const auto& ring = store_.ring(task);
  const int64_t oldest = ring.begin - (settings_.shape.frame > 0 && ring.begin > 0);
  const RingNumbers numbers{ring.begin, ring.end, ring.kept_begin, ring.kept_end, ring.open, 0};
  put_chunk(sink, &numbers, sizeof numbers);
  put_rows(task, segments.empty() ? oldest : std::max(oldest, segments.back().last), ring.end + ring.open,
           sink);
  std::vector<float> kept;
  for (uint32_t number = ring.kept_begin; number != ring.kept_end; ++number)
    kept.insert(kept.end(), store_.kept_of(ring, number),
                store_.kept_of(ring, number) + settings_.shape.observation);
  put_chunk(sink, kept.data(), kept.size() * sizeof(float));
  if (trees_.empty()) return;
  const auto runs = store_.runs_of(ring);
  for (int run = 0; run < 2; ++run)
    put_chunk(sink, trees_[task].leaves() + runs.first[run],
              (runs.last[run] - runs.first[run]) * sizeof(float));
}

void ReplayBuffer::put_prefetched(const std::vector<int64_t>& count, const BatchView& batch,
                                  const Sink& sink) const {
  if (count.empty()) return;
  put_chunk(sink, count.data(), count.size() * sizeof(int64_t));
  for (const Column& column : columns_of(settings_.shape, batch)) put_chunk(sink, column.data, column.bytes);
}

void ReplayBuffer::check_segments(const std::vector<Segment>& segments) const {
  for (size_t i = 0; i < segments.size(); ++i) {
    const int64_t first = segments[i].first, before = i == 0 ? first : segments[i - 1].last;
    if (first != before || first >= segments[i].last || segments[0].first > oldest_row() ||
        segments[i].last >= store_.end(0))
      throw std::invalid_argument("segment " + std::to_string(first) + " to " +
                                  std::to_string(segments[i].last) +
                                  " is not one of a run of settled transitions from the oldest on");
  }
}

void ReplayBuffer::save(const std::vector<Segment>& segments, const Sink& sink) {
  const auto lock = lock_after_prefetch();
  check_segments(segments);
  const int64_t tasks = settings_.shape.tasks, rows = prefetched_.count.empty() ? 0 : prefetched_.view.rows;
  put_header(header_of(tasks, static_cast<int64_t>(segments.size()), rows), segments, sink);
  for (int64_t task = 0; task < tasks; ++task) put_task(task, segments, sink);
  put_prefetched(prefetched_.count, prefetched_.view, sink);
}
