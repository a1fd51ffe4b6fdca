/* The program `maasq`; everything is in cli.c. */
#include "client/cli/cli.h"

int main(int argc, char **argv)
{
    return mq_cli_main(argc, argv);
}
