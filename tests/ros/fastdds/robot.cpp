// A robot on Fast DDS: three joints that are at once where a JointTrajectory's last point says.
// Usage: robot DOMAIN RATE_HZ; on SIGTERM it writes what it received as one line of JSON.
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

#include "RobotPubSubTypes.h"

using namespace eprosima::fastdds::dds;
using State = sensor_msgs::msg::dds_::JointState_;
using Command = trajectory_msgs::msg::dds_::JointTrajectory_;

static volatile std::sig_atomic_t going = 1;

static DomainParticipant* join(int domain) {
  DomainParticipantQos qos;
  auto udp = std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>();
  udp->interfaceWhiteList.push_back("127.0.0.1");
  qos.transport().use_builtin_transports = false;
  qos.transport().user_transports.push_back(udp);
  return DomainParticipantFactory::get_instance()->create_participant(domain, qos);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const double rate = std::atof(argv[2]);
  DomainParticipant* participant = join(std::atoi(argv[1]));
  if (!participant) return 3;
  TypeSupport state_type(new sensor_msgs::msg::dds_::JointState_PubSubType());
  TypeSupport command_type(new trajectory_msgs::msg::dds_::JointTrajectory_PubSubType());
  state_type.register_type(participant);
  command_type.register_type(participant);
  Topic* states = participant->create_topic("rt/joint_states", state_type.get_type_name(), TOPIC_QOS_DEFAULT);
  Topic* commands = participant->create_topic("rt/arm_controller/joint_trajectory", command_type.get_type_name(),
                                              TOPIC_QOS_DEFAULT);
  DataWriterQos writing;
  writing.durability().kind = VOLATILE_DURABILITY_QOS;
  writing.reliability().kind = RELIABLE_RELIABILITY_QOS;
  writing.history().depth = 10;
  DataReaderQos reading;
  reading.reliability().kind = RELIABLE_RELIABILITY_QOS;
  reading.history().depth = 1;
  DataWriter* writer = participant->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(states, writing);
  DataReader* reader = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(commands, reading);
  if (!writer || !reader) return 4;
  std::signal(SIGTERM, [](int) { going = 0; });

  State state;
  state.name({"joint_2", "joint_1", "joint_3"});
  std::vector<double> place{0.2, 0.1, 0.3};
  long heard = 0, sent = 0, strange = 0;
  double from_start = 0;
  std::printf("ready\n");
  std::fflush(stdout);
  auto next = std::chrono::steady_clock::now();
  while (going) {
    Command command;
    SampleInfo info;
    while (reader->take_next_sample(&command, &info) == ReturnCode_t::RETCODE_OK) {
      if (!info.valid_data) continue;
      ++heard;
      const bool whole = !command.points().empty() &&
                         command.points().back().positions().size() == command.joint_names().size();
      if (!whole || command.header().stamp().sec() != 0) { ++strange; continue; }
      const auto& end = command.points().back();
      from_start = end.time_from_start().sec() + 1e-9 * end.time_from_start().nanosec();
      for (size_t k = 0; k < command.joint_names().size(); ++k)
        for (size_t j = 0; j < place.size(); ++j)
          if (state.name()[j] == command.joint_names()[k]) {
            place[j] = end.positions()[k];
            if (!std::isfinite(place[j])) ++strange;
          }
    }
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto nanos = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    state.header().stamp().sec(static_cast<int32_t>(nanos / 1000000000));
    state.header().stamp().nanosec(static_cast<uint32_t>(nanos % 1000000000));
    state.position(place);
    state.velocity({0.0, -0.0, 1e-300});
    if (writer->write(&state)) ++sent;
    next += std::chrono::nanoseconds(static_cast<long>(1e9 / rate));
    std::this_thread::sleep_until(next);
  }
  std::printf("{\"heard\": %ld, \"sent\": %ld, \"strange\": %ld, \"from_start\": %.9f}\n", heard, sent, strange, from_start);
  std::fflush(stdout);
  participant->delete_contained_entities();
  DomainParticipantFactory::get_instance()->delete_participant(participant);
  return 0;
}
