// A device for Paddle that is not the CPU, for tests on machines without an accelerator.
//
// Its memory is the host's, and it has no kernels, so that Paddle falls back to the CPU's for every operator. All that
// Paddle and this project do for an accelerator and not for the CPU happens on it: places, copies, mixed precision with
// a real loss scaler, a process group that is not gloo. Its results are to be those of the CPU, bit for bit.
//
// Environment variables:
//   FAKE_DEVICE_DIR       folder for what processes tell each other (default: the system's folder for temporary files)
//   FAKE_DEVICE_PATIENCE  seconds after which a process that waits for another one fails (default 120)
//   FAKE_DEVICE_NAP       milliseconds by which a copy that the host waits for takes longer (default 0)
#include "paddle/phi/backends/device_ext.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}

// ------------------------------------------------------------------------------------------------ device and memory

// In the order of `plugin.COUNTERS`. Loaders copy from threads of their own.
std::atomic<long> copies_to_device, copies_to_host, async_copies_to_device, async_copies_to_host, operators_copies;

bool moves_operands(void *address) {
  static std::map<void *, bool> known;
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  auto found = known.find(address);
  if (found != known.end()) return found->second;
  Dl_info info;
  bool yes = dladdr(address, &info) && info.dli_sname && strstr(info.dli_sname, "TransDataPlace");
  return known[address] = yes;
}

// Counts a copy. To run an operator Paddle brings its operands to the CPU and the results back; a device with kernels
// of its own has no such copies, so they are told apart by who asks: phi's TransDataPlace, some eight frames up.
void count(std::atomic<long> *counter, bool host_waits) {
  void *frames[14];
  int depth = backtrace(frames, 14);
  for (int i = 0; i < depth; i++) {
    if (moves_operands(frames[i])) {
      ++operators_copies;
      return;
    }
  }
  ++*counter;
  static const long milliseconds = atol(setting("FAKE_DEVICE_NAP", "0"));
  if (host_waits && milliseconds > 0) usleep(1000 * milliseconds);
}

C_Status nothing() { return C_SUCCESS; }
C_Status nothing_on(const C_Device) { return C_SUCCESS; }

C_Status get_device(const C_Device device) {
  device->id = 0;
  return C_SUCCESS;
}

C_Status device_count(size_t *count) {
  *count = 1;
  return C_SUCCESS;
}

C_Status device_list(size_t *devices) {
  devices[0] = 0;
  return C_SUCCESS;
}

C_Status memory_stats(const C_Device, size_t *total, size_t *free_bytes) {
  *total = size_t(16) << 30;
  *free_bytes = size_t(15) << 30;
  return C_SUCCESS;
}

C_Status min_chunk_size(const C_Device, size_t *bytes) {
  *bytes = 64;
  return C_SUCCESS;
}

C_Status version(const C_Device, size_t *number) {
  *number = 1;
  return C_SUCCESS;
}

C_Status supported(const C_Device, bool *answer) {
  *answer = true;
  return C_SUCCESS;
}

C_Status allocate(const C_Device, void **memory, size_t bytes) {
  *memory = malloc(bytes ? bytes : 1);
  return *memory ? C_SUCCESS : C_FAILED;
}

C_Status deallocate(const C_Device, void *memory, size_t) {
  free(memory);
  return C_SUCCESS;
}

C_Status set_memory(const C_Device, void *memory, unsigned char value, size_t bytes) {
  memset(memory, value, bytes);
  return C_SUCCESS;
}

C_Status copy_to_device(const C_Device, void *to, const void *from, size_t bytes) {
  count(&copies_to_device, true);
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status copy_to_host(const C_Device, void *to, const void *from, size_t bytes) {
  count(&copies_to_host, true);
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status copy_within(const C_Device, void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status copy_across(const C_Device, const C_Device, void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status async_copy_to_device(const C_Device, C_Stream, void *to, const void *from, size_t bytes) {
  count(&async_copies_to_device, false);
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status async_copy_to_host(const C_Device, C_Stream, void *to, const void *from, size_t bytes) {
  count(&async_copies_to_host, false);
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status async_copy_within(const C_Device, C_Stream, void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

C_Status async_copy_across(const C_Device, const C_Device, C_Stream, void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  return C_SUCCESS;
}

// --------------------------------------------------- streams and events: all is done by the time that it was asked for

C_Status create_stream(const C_Device, C_Stream *stream) {
  *stream = reinterpret_cast<C_Stream>(malloc(8));
  return C_SUCCESS;
}

C_Status destroy_stream(const C_Device, C_Stream stream) {
  free(stream);
  return C_SUCCESS;
}

C_Status add_callback(const C_Device device, C_Stream stream, C_Callback callback, void *data) {
  C_Status status = C_SUCCESS;
  callback(device, stream, data, &status);
  return status;
}

C_Status create_event(const C_Device, C_Event *event) {
  *event = reinterpret_cast<C_Event>(malloc(8));
  return C_SUCCESS;
}

C_Status destroy_event(const C_Device, C_Event event) {
  free(event);
  return C_SUCCESS;
}

C_Status record_event(const C_Device, C_Stream, C_Event) { return C_SUCCESS; }
C_Status wait_for_event(const C_Device, C_Event) { return C_SUCCESS; }
C_Status stream_waits_for_event(const C_Device, C_Stream, C_Event) { return C_SUCCESS; }

C_Status wait_for_stream(const C_Device, C_Stream) { return C_SUCCESS; }

// -------------------------------------------------------------------- collectives: messages are files of a folder

struct Group {
  std::string id, folder;
  size_t rank, size;
  long step = 0;                          // collectives so far
  std::vector<long> sent, received;       // messages to and from each process
};

std::set<Group *> groups;

size_t width(C_DataType type) {
  switch (type) {
    case BOOL: case UINT8: case INT8: return 1;
    case UINT16: case INT16: case FLOAT16: case BFLOAT16: return 2;
    case UINT32: case INT32: case FLOAT32: return 4;
    case COMPLEX128: return 16;
    default: return 8;
  }
}

C_Status fail(const Group *group, const std::string &what) {
  fprintf(stderr, "fake device, process %zu of %zu: %s\n", group->rank, group->size, what.c_str());
  return C_FAILED;
}

C_Status put(const Group *group, const std::string &name, const void *data, size_t bytes) {
  std::string path = group->folder + "/" + name, unfinished = path + ".tmp";
  FILE *file = fopen(unfinished.c_str(), "wb");
  bool good = file && fwrite(data, 1, bytes, file) == bytes;
  good = file && fclose(file) == 0 && good;
  if (!good || rename(unfinished.c_str(), path.c_str())) return fail(group, path + ": " + strerror(errno));
  return C_SUCCESS;
}

C_Status get(const Group *group, const std::string &name, void *data, size_t bytes) {
  std::string path = group->folder + "/" + name;
  static const long patience = atol(setting("FAKE_DEVICE_PATIENCE", "120"));
  time_t begin = time(nullptr);
  FILE *file;
  while (!(file = fopen(path.c_str(), "rb"))) {
    if (time(nullptr) - begin > patience)
      return fail(group, "waited " + std::to_string(patience) + " s for another process's " + path);
    usleep(200);
  }
  size_t read = fread(data, 1, bytes, file);
  bool all = read == bytes && fgetc(file) == EOF;
  fclose(file);
  return all ? C_SUCCESS : fail(group, path + " is not of " + std::to_string(bytes) + " bytes: other shapes there?");
}

std::string message(long step, size_t rank) { return "all_" + std::to_string(step) + "_" + std::to_string(rank); }

std::string message(size_t from, size_t to, long number) {
  return "one_" + std::to_string(from) + "_" + std::to_string(to) + "_" + std::to_string(number);
}

void take_away(const Group *group, const std::string &name) { unlink((group->folder + "/" + name).c_str()); }

// This process's part of the current collective. Who begins one has seen everybody begin the one before, and so end
// the one before that: its message is no longer needed.
C_Status publish(const Group *group, const void *data, size_t bytes) {
  take_away(group, message(group->step - 2, group->rank));
  return put(group, message(group->step, group->rank), data, bytes);
}

C_Status all_gather(void *send, void *receive, size_t count, C_DataType type, C_CCLComm comm, C_Stream) {
  auto *group = reinterpret_cast<Group *>(comm);
  size_t bytes = count * width(type);
  C_Status status = publish(group, send, bytes);
  for (size_t r = 0; r < group->size && status == C_SUCCESS; r++)
    status = get(group, message(group->step, r), static_cast<char *>(receive) + r * bytes, bytes);
  group->step++;
  return status;
}

C_Status broadcast(void *data, size_t count, C_DataType type, size_t root, C_CCLComm comm, C_Stream) {
  auto *group = reinterpret_cast<Group *>(comm);
  size_t bytes = count * width(type);
  bool mine = group->rank == root;
  C_Status status = publish(group, data, mine ? bytes : 0);
  for (size_t r = 0; r < group->size && status == C_SUCCESS; r++)         // of the others nothing, but that they came
    if (r != group->rank) status = get(group, message(group->step, r), data, r == root ? bytes : 0);
  group->step++;
  return status;
}

template <class T>
T combine(T a, T b, C_CCLReduceOp op) {
  switch (op) {
    case MAX: return std::max(a, b);
    case MIN: return std::min(a, b);
    case PRODUCT: return a * b;
    default: return a + b;
  }
}

size_t round_up(size_t number, size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

// Elements of one process's share in gloo's ring (allreduce.cc there): whole segments of at most 1 MiB, two at least.
size_t ring_share(size_t count, size_t width, size_t size) {
  size_t bytes = count * width, largest = size_t(1) << 20;
  size_t segments = round_up(std::max((bytes + largest - 1) / largest, 2 * size), size);
  return segments / size * round_up((bytes + segments - 1) / segments, width) / width;
}

// In the order in which gloo's ring adds, so that sums of three and more processes are a CPU's, bit for bit: share c
// begins at process c - 1 and travels down to process c, every process adding its own.
template <class T>
void reduce(const std::vector<char> &parts, void *result, size_t count, size_t size, C_CCLReduceOp op) {
  const T *in = reinterpret_cast<const T *>(parts.data());
  T *out = static_cast<T *>(result);
  size_t share = ring_share(count, sizeof(T), size);
  for (size_t j = 0; j < count; j++) {
    size_t first = j / share + size - 1;
    T value = in[first % size * count + j];
    for (size_t k = 1; k < size; k++) value = combine<T>(in[(first - k) % size * count + j], value, op);
    out[j] = op == AVG ? value / static_cast<T>(size) : value;
  }
}

C_Status all_reduce(void *send, void *receive, size_t count, C_DataType type, C_CCLReduceOp op, C_CCLComm comm,
                    C_Stream stream) {
  auto *group = reinterpret_cast<Group *>(comm);
  std::vector<char> parts(count * width(type) * group->size);
  C_Status status = all_gather(send, parts.data(), count, type, comm, stream);
  if (status != C_SUCCESS) return status;
  switch (type) {
    case FLOAT32: reduce<float>(parts, receive, count, group->size, op); break;
    case FLOAT64: reduce<double>(parts, receive, count, group->size, op); break;
    case INT64: reduce<int64_t>(parts, receive, count, group->size, op); break;
    case INT32: reduce<int32_t>(parts, receive, count, group->size, op); break;
    case UINT8: case BOOL: reduce<uint8_t>(parts, receive, count, group->size, op); break;
    default: return fail(group, "cannot add numbers of type " + std::to_string(type));
  }
  return C_SUCCESS;
}

C_Status send(void *data, size_t count, C_DataType type, size_t to, C_CCLComm comm, C_Stream) {
  auto *group = reinterpret_cast<Group *>(comm);
  return put(group, message(group->rank, to, group->sent[to]++), data, count * width(type));
}

C_Status receive(void *data, size_t count, C_DataType type, size_t from, C_CCLComm comm, C_Stream) {
  auto *group = reinterpret_cast<Group *>(comm);
  std::string name = message(from, group->rank, group->received[from]++);
  C_Status status = get(group, name, data, count * width(type));
  take_away(group, name);
  return status;
}

C_Status all_to_all(const void **out, const size_t *out_counts, const C_DataType *out_types, void **in,
                    const size_t *in_counts, const C_DataType *in_types, size_t, size_t size, C_CCLComm comm,
                    C_Stream stream) {
  C_Status status = C_SUCCESS;
  for (size_t r = 0; r < size && status == C_SUCCESS; r++)
    status = send(const_cast<void *>(out[r]), out_counts[r], out_types[r], r, comm, stream);
  for (size_t r = 0; r < size && status == C_SUCCESS; r++)
    status = receive(in[r], in_counts[r], in_types[r], r, comm, stream);
  return status;
}

const size_t ID_BYTES = 64;

C_Status id_size(size_t *bytes) {
  *bytes = ID_BYTES;
  return C_SUCCESS;
}

// Never one of a run before: its files may still lie there.
C_Status make_id(C_CCLRootId *id) {
  static int number = 0;
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  snprintf(static_cast<char *>(id->data), ID_BYTES, "fake_%d_%d_%ld_%ld", getpid(), number++, long(now.tv_sec),
           now.tv_nsec);
  return C_SUCCESS;
}

C_Status join(size_t size, C_CCLRootId *id, size_t rank, C_CCLComm *comm) {
  auto *group = new Group;
  group->id = static_cast<char *>(id->data);
  group->folder = std::string(setting("FAKE_DEVICE_DIR", setting("TMPDIR", "/tmp"))) + "/" + group->id;
  group->rank = rank;
  group->size = size;
  group->sent.assign(size, 0);
  group->received.assign(size, 0);
  mkdir(group->folder.c_str(), 0700);       // one of the processes makes it; `put` tells if nobody could
  groups.insert(group);
  *comm = reinterpret_cast<C_CCLComm>(group);
  return C_SUCCESS;
}

// The last one to go removes the files: others may still read them.
C_Status leave(C_CCLComm comm) {
  auto *group = reinterpret_cast<Group *>(comm);
  if (!groups.erase(group)) return C_SUCCESS;
  put(group, "left_" + std::to_string(group->rank), nullptr, 0);
  size_t left = 0;
  std::vector<std::string> names;
  if (DIR *folder = opendir(group->folder.c_str())) {
    while (dirent *entry = readdir(folder)) names.push_back(entry->d_name);
    closedir(folder);
  }
  for (auto &name : names) left += name.rfind("left_", 0) == 0 && name.find('.') == std::string::npos;
  if (left == group->size) {
    for (auto &name : names) take_away(group, name);
    rmdir(group->folder.c_str());
  }
  delete group;
  return C_SUCCESS;
}

struct LeaveAtExit {
  ~LeaveAtExit() {
    while (!groups.empty()) leave(reinterpret_cast<C_CCLComm>(*groups.begin()));
  }
} leave_at_exit;

C_Status group_name(C_CCLComm comm, char *name) {
  strcpy(name, reinterpret_cast<Group *>(comm)->id.c_str());
  return C_SUCCESS;
}

}  // namespace

extern "C" void fake_counts(long *counts) {
  counts[0] = copies_to_device;
  counts[1] = copies_to_host;
  counts[2] = async_copies_to_device;
  counts[3] = async_copies_to_host;
  counts[4] = operators_copies;
}

extern "C" void InitPlugin(CustomRuntimeParams *params) {
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  static char type[] = "fake", sub_type[] = "V1";
  params->device_type = type;
  params->sub_device_type = sub_type;
  C_DeviceInterface *i = params->interface;
  memset(static_cast<void *>(i), 0, sizeof(C_DeviceInterface));
  i->size = sizeof(C_DeviceInterface);

  i->initialize = nothing;
  i->finalize = nothing;
  i->init_device = nothing_on;
  i->deinit_device = nothing_on;
  i->set_device = nothing_on;
  i->get_device = get_device;
  i->get_device_count = device_count;
  i->get_device_list = device_list;
  i->device_memory_stats = memory_stats;
  i->device_min_chunk_size = min_chunk_size;
  i->get_runtime_version = version;
  i->get_driver_version = version;
  i->get_compute_capability = version;
  i->is_float16_supported = supported;
  i->is_bfloat16_supported = supported;

  i->create_stream = create_stream;
  i->destroy_stream = destroy_stream;
  i->stream_add_callback = add_callback;
  i->create_event = create_event;
  i->destroy_event = destroy_event;
  i->record_event = record_event;
  i->synchronize_device = nothing_on;
  i->synchronize_stream = wait_for_stream;
  i->synchronize_event = wait_for_event;
  i->stream_wait_event = stream_waits_for_event;

  i->device_memory_allocate = allocate;
  i->device_memory_deallocate = deallocate;
  i->host_memory_allocate = allocate;
  i->host_memory_deallocate = deallocate;
  i->unified_memory_allocate = allocate;
  i->unified_memory_deallocate = deallocate;
  i->device_memory_set = set_memory;
  i->memory_copy_h2d = copy_to_device;
  i->memory_copy_d2h = copy_to_host;
  i->memory_copy_d2d = copy_within;
  i->memory_copy_p2p = copy_across;
  i->async_memory_copy_h2d = async_copy_to_device;
  i->async_memory_copy_d2h = async_copy_to_host;
  i->async_memory_copy_d2d = async_copy_within;
  i->async_memory_copy_p2p = async_copy_across;

  i->xccl_get_unique_id_size = id_size;
  i->xccl_get_unique_id = make_id;
  i->xccl_comm_init_rank = join;
  i->xccl_destroy_comm = leave;
  i->xccl_get_comm_name = group_name;
  i->xccl_group_start = nothing;
  i->xccl_group_end = nothing;
  i->xccl_all_gather = all_gather;
  i->xccl_all_reduce = all_reduce;
  i->xccl_broadcast = broadcast;
  i->xccl_send = send;
  i->xccl_recv = receive;
  i->xccl_all_to_all = all_to_all;
}
