output "url" {
  description = "Where the gateway is; without a certificate, a name that only the VPC reaches."
  value       = local.has_tls ? "https://${local.has_domain ? var.domain_name : aws_lb.this.dns_name}" : "http://${aws_lb.this.dns_name}"
}

output "load_balancer" {
  description = "The load balancer: its host name, for a record of your own, and its ARN, for a firewall."
  value       = { arn = aws_lb.this.arn, dns_name = aws_lb.this.dns_name, zone_id = aws_lb.this.zone_id }
}

output "repository_url" {
  description = "Where Mayfly's image is to be pushed, with image_tag."
  value       = aws_ecr_repository.this["mayfly"].repository_url
}

output "functions_repository_url" {
  description = "Where functions' images are: the deployer pushes them, dispatchers pull them."
  value       = aws_ecr_repository.this["functions"].repository_url
}

output "deploy_command" {
  description = "Runs the deployer once, on a host; unset without functions_tag."
  value       = var.functions_tag == null ? null : "aws ecs run-task --region ${local.region} --cluster ${aws_ecs_cluster.this.name} --task-definition ${one(aws_ecs_task_definition.deployer[*].family)} --capacity-provider-strategy capacityProvider=${aws_ecs_capacity_provider.hosts.name},weight=1"
}

output "image" {
  description = "The image that gateways and dispatchers run."
  value       = local.image
}

output "admin_key_secret" {
  description = "The secret of Secrets Manager that has the admin key."
  value       = aws_secretsmanager_secret.setting["MAYFLY_ADMIN_KEY"].arn
}

output "cluster" {
  description = "The ECS cluster."
  value       = aws_ecs_cluster.this.name
}

output "bootstrap_brokers" {
  description = "Kafka, by TLS and IAM, from inside the VPC."
  value       = aws_msk_cluster.this.bootstrap_brokers_sasl_iam
}

output "bucket" {
  description = "The bucket of payloads, results and logs."
  value       = aws_s3_bucket.tasks.id
}

output "alarms_topic" {
  description = "The SNS topic that alarms go to."
  value       = aws_sns_topic.alarms.arn
}

output "role_arns" {
  description = "The roles of the gateway and the dispatcher: for policies of what else they may reach."
  value       = { for name, role in aws_iam_role.task : name => role.arn }
}

output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "The subnets of gateways and hosts."
  value       = [for subnet in aws_subnet.private : subnet.id]
}
