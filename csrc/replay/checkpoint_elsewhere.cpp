#include <algorithm>
#include <stdexcept>

#include "replay/checkpoint.h"

// One task after the other goes through task 0 of this buffer.
void ReplayBuffer::take_task(const Elsewhere& replay, int64_t task) {
  const RingImage image = replay.image_of(task);
  store_.take_image(0, image);
  if (!trees_.empty()) trees_[0].fill(image.leaves);
}

void ReplayBuffer::save_rows_elsewhere(const Elsewhere& replay, int64_t first, int64_t last,
                                       const Sink& sink) {
  const auto lock = this->lock();
  put_segment_header(replay.tasks, first, last, sink);
  for (int64_t task = 0; task < replay.tasks; ++task) {
    take_task(replay, task);
    check_settled(first, last);
    put_rows(0, first, last, sink);
  }
}

void ReplayBuffer::save_elsewhere(const Elsewhere& replay, const std::vector<Segment>& segments,
                                  const std::vector<int64_t>& count, const BatchView& batch,
                                  const Sink& sink) {
  const auto lock = this->lock();
  Header header =
      header_of(replay.tasks, static_cast<int64_t>(segments.size()), count.empty() ? 0 : batch.rows);
  header.seed = replay.seed;
  header.draws = replay.draws;
  header.present_alpha = replay.alpha;
  put_header(header, segments, sink);
  for (int64_t task = 0; task < replay.tasks; ++task) {
    take_task(replay, task);
    check_segments(segments);
    put_task(0, segments, sink);
  }
  put_prefetched(count, batch, sink);
}

std::vector<ReplayBuffer::Segment> ReplayBuffer::load_elsewhere(Elsewhere& replay, Bytes stream,
                                                                const Segments& find) {
  const auto lock = this->lock();
  const Contents contents = open(stream, find, replay.tasks);
  Contents last = contents;
  for (const bool apply : {false, true}) {
    last = contents;
    for (int64_t task = 0; task < replay.tasks; ++task) {
      read_task(last, task, 0, apply);
      if (!apply) continue;
      const RingImage image = replay.image_of(task);
      store_.give_image(0, image);
      if (!trees_.empty()) std::copy_n(trees_[0].leaves(), store_.rows(), image.leaves);
      replay.filled(task);
    }
    read_end(last);
  }
  replay.seed = last.header.seed;
  replay.draws = last.header.draws;
  replay.alpha = last.header.present_alpha;
  prefetched_ = std::move(last.prefetched);
  return last.segments;
}

void ReplayBuffer::take_prefetched(const BatchView& batch) {
  const auto lock = this->lock();
  if (prefetched_.count.empty() || prefetched_.view.rows != batch.rows)
    throw std::invalid_argument("no batch of " + std::to_string(batch.rows) + " rows was prefetched");
  give_prefetched(batch);
}
