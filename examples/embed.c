/* SPDX-License-Identifier: Apache-2.0
 * A report from C:  embed BUNDLE FILM.pgm   (a binary PGM file stands for the detector's memory) */
#include <edge_report.h>
#include <stdio.h>
#include <stdlib.h>

static int show(void* user, const char* text, size_t length) {
  fwrite(text, 1, length, (FILE*)user);
  return 0; /* anything else cancels */
}

int main(int argc, char** argv) {
  int columns = 0, rows = 0, most = 0;
  FILE* file = argc == 3 ? fopen(argv[2], "rb") : NULL;
  if (!file || fscanf(file, "P5 %d %d %d", &columns, &rows, &most) != 3 || fgetc(file) == EOF) {
    fprintf(stderr, "usage: embed BUNDLE FILM.pgm\n");
    return EDGE_USAGE;
  }
  size_t cells =
      rows > 0 && columns > 0 && rows <= 12000 && columns <= 12000 ? (size_t)rows * (size_t)columns : 0;
  size_t size = cells * (most > 255 ? 2 : 1);
  void* pixels = size ? malloc(size) : NULL;
  size_t got = pixels ? fread(pixels, 1, size, file) : 0;
  fclose(file);
  if (!pixels || got != size) {
    fprintf(stderr, "the picture is cut off, or its size is none of a film\n");
    free(pixels);
    return EDGE_CORRUPT;
  }

  edge_error error;
  edge_engine* engine = NULL;
  edge_report* report = NULL;
  edge_film film;
  edge_film_init(&film);
  film.pixels = pixels;
  film.rows = rows;
  film.columns = columns;
  film.bits_allocated = most > 255 ? 16 : 8;
  film.big_endian = 1; /* as PGM has it */
  edge_report_options options;
  edge_report_options_init(&options);
  options.on_text = show;
  options.user = stdout;

  edge_status status = edge_engine_open(argv[1], NULL, &engine, &error);
  if (status == EDGE_OK) {
    if (edge_engine_notice(engine)) fprintf(stderr, "%s\n", edge_engine_notice(engine));
    status = edge_engine_report(engine, &film, &options, &report, &error);
  }
  if (status != EDGE_OK) fprintf(stderr, "%s: %s\n", edge_status_name(status), error.message);
  for (size_t i = 0; i < edge_report_warning_count(report); ++i)
    fprintf(stderr, "warning: %s\n", edge_report_warning(report, i));
  printf("\n");
  edge_report_free(report);
  edge_engine_close(engine);
  free(pixels);
  return (int)status;
}
