// SPDX-License-Identifier: Apache-2.0
// Two engines in one process, each with a film of its own, from C++:  embed_cpp BUNDLE ROWS COLUMNS FILM.raw
// FILM.raw (16-bit cells in the machine's order). Prints the reports as JSON, one per line, in the order of
// the films.
#include <edge_report.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Engine = std::unique_ptr<edge_engine, decltype(&edge_engine_close)>;
using Report = std::unique_ptr<edge_report, decltype(&edge_report_free)>;

void check(edge_status status, const edge_error& error) {
  if (status != EDGE_OK) throw std::runtime_error(error.message);
}

std::string report(const std::string& bundle, int rows, int columns, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> cells{std::istreambuf_iterator<char>(file), {}};
  if (cells.size() != std::size_t(rows) * std::size_t(columns) * 2)
    throw std::runtime_error("another size of film");

  edge_error error;
  edge_options options;
  edge_options_init(&options);
  options.threads = 1;
  edge_engine* opened = nullptr;
  check(edge_engine_open(bundle.c_str(), &options, &opened, &error), error);
  const Engine engine(opened, edge_engine_close);

  edge_film film;
  edge_film_init(&film);
  film.pixels = cells.data();
  film.rows = rows;
  film.columns = columns;
  edge_report* made = nullptr;
  check(edge_engine_report(engine.get(), &film, nullptr, &made, &error), error);
  return edge_report_json(Report(made, edge_report_free).get());
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 5) throw std::runtime_error("usage: embed_cpp BUNDLE ROWS COLUMNS FILM.raw ...");
  std::vector<std::future<std::string>> reports;
  for (int i = 4; i < argc; ++i)
    reports.push_back(
        std::async(std::launch::async, report, argv[1], std::atoi(argv[2]), std::atoi(argv[3]), argv[i]));
  for (auto& json : reports) std::puts(json.get().c_str());
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
