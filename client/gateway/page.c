/* The dashboard's files, embedded at build from client/gateway/web. */
#include "client/gateway/page.h"

#include <string.h>

#include "shared/base/assert.h"

static const uint8_t index_html[] = {
#include "web/index.html.inc"
};
static const uint8_t app_js[] = {
#include "web/app.js.inc"
};
static const uint8_t chart_js[] = {
#include "web/chart.js.inc"
};
static const uint8_t style_css[] = {
#include "web/style.css.inc"
};
static const uint8_t icon_svg[] = {
#include "web/icon.svg.inc"
};

static const mq_page pages[] = {
    {"/", "text/html; charset=utf-8", index_html, sizeof index_html},
    {"/app.js", "text/javascript; charset=utf-8", app_js, sizeof app_js},
    {"/chart.js", "text/javascript; charset=utf-8", chart_js, sizeof chart_js},
    {"/style.css", "text/css; charset=utf-8", style_css, sizeof style_css},
    {"/icon.svg", "image/svg+xml", icon_svg, sizeof icon_svg},
};

const mq_page *mq_page_find(const char *path)
{
    const mq_page *found = NULL;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (strcmp(pages[i].path, path) == 0) {
            found = &pages[i];
        }
    }
    MQ_ASSERT(found != NULL);
    return found;
}
