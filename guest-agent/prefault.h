/*
 * Page faults taken before a snapshot instead of by every clone of it. Process: mayfly-agent.
 *
 * Code is mapped straight from the root image, a page at its first use. What a clone runs first is
 * not what ran before the snapshot, so it would fault: some 2 ms each where KVM emulates supervisor
 * mode. Mapped ahead they cost the snapshot nothing but page tables.
 */
#ifndef MAYFLY_AGENT_PREFAULT_H
#define MAYFLY_AGENT_PREFAULT_H

#include <sys/types.h>

/*
 * prefault_code - map the program, libraries and constants of @pid (one of ours, or the agent
 * itself) into its address space, up to a limit. A hint: what fails is left to be faulted in later.
 */
void prefault_code(pid_t pid);

#endif
